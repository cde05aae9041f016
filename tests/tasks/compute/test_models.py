"""Tests of devices, precisions, tokenizers and models."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, FNetConfig, FNetModel

from tasks.compute.models import Hardware, bind, check_max_length, load_model, load_tokenizer, set_up, share_of_cores
from tasks.errors import ConfigError, ModelError

KIND = bind("text-classification", {}, ["a", "b"])
LOADING = {"trained": False, "allow_pickle": False, "remote_code": False}
ABSENT = "cuda" if torch.backends.mps.is_available() else "mps"


def test_auto_takes_the_best_device_that_is_there() -> None:
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert Hardware.choose("auto", "fp32") == Hardware(best, "fp32")


def test_auto_precision_is_bf16_where_the_processor_is_fast_at_it() -> None:
    information = Path("/proc/cpuinfo")
    flags = information.read_text(encoding="utf-8").split() if information.exists() else []
    fast = "avx512_bf16" in flags or "amx_bf16" in flags
    assert Hardware.choose("cpu", "auto") == Hardware("cpu", "bf16" if fast else "fp32")


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        (ABSENT, "auto", f"training.device is '{ABSENT}', but this machine has none; set it to 'auto'"),
        ("cpu", "fp16", "training.precision is 'fp16', which CPUs compute badly with"),
    ],
)
def test_hardware_that_cannot_do_it_is_refused(device: str, precision: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Hardware.choose(device, precision)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_computed_in_the_precision_of_the_hardware(precision: str, dtype: torch.dtype) -> None:
    hardware = Hardware.choose("cpu", precision)
    with hardware.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert str(hardware) == f"cpu, {precision}"


class Gpus:
    """As many of a sort as are asked for, as torch would tell of them."""

    def __init__(self, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)


def test_several_processes_are_told_with_device_precision_and_how_they_talk(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(Hardware.choose("cpu", "fp32", 3)) == "3 processes, cpu, fp32, gloo"
    Gpus(2, monkeypatch)
    assert str(Hardware.choose("auto", "auto", 2)) == "2 processes, cuda (NVIDIA H100), bf16, nccl"
    assert str(Hardware.choose("auto", "auto")) == "NVIDIA H100, bf16"


@pytest.mark.parametrize(("gpus", "there"), [(2, "2 GPUs are there; set it to 2"), (1, "1 GPU is there; set it to 1")])
def test_more_processes_than_gpus_are_refused(gpus: int, there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Gpus(gpus, monkeypatch)
    with pytest.raises(ConfigError, match=f"^training.processes is 4, but {there}, or training.device to 'cpu'.$"):
        Hardware.choose("auto", "auto", 4)
    assert Hardware.choose("cpu", "fp32", 4).processes == 4


def test_set_up_seeds_and_uses_every_core() -> None:
    drawn = []
    for seed in (1, 1, 2):
        set_up(seed)
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    cores = len(os.sched_getaffinity(0))
    assert torch.get_num_threads() == cores
    assert [share_of_cores(processes) for processes in (1, 2, cores, 64 * cores)] == [cores, max(1, cores // 2), 1, 1]


def edit(folder: Path, name: str, **changes: object) -> None:
    content = json.loads((folder / name).read_text(encoding="utf-8")) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


@pytest.fixture
def copy(encoder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(encoder, tmp_path / "copy")


def test_a_tokenizer_without_pad_token_pads_with_its_end_of_text(decoder: Path, encoder: Path) -> None:
    assert AutoTokenizer.from_pretrained(decoder).pad_token is None
    assert load_tokenizer(decoder, remote_code=False).pad_token == "[SEP]"
    assert load_tokenizer(encoder, remote_code=False).pad_token == "[PAD]"


def test_a_tokenizer_with_nothing_to_pad_with_is_refused(decoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(decoder, tmp_path / "copy")
    edit(folder, "tokenizer_config.json", eos_token=None, unk_token=None)
    with pytest.raises(ModelError, match="has no pad, end-of-text or unknown token"):
        load_tokenizer(folder, remote_code=False)


@pytest.mark.parametrize(
    ("name", "message"), [("tokenizer.json", "Tokenizer of .* cannot be loaded"), ("config.json", "cannot be loaded")]
)
def test_damaged_files_are_a_model_error_of_one_line(copy: Path, name: str, message: str) -> None:
    (copy / name).write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=message) as caught:
        load_tokenizer(copy, remote_code=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("tokens", "positions", "limit"), [(64, 32, 32), (20, 64, 20), (None, 64, 64)])
def test_the_limit_of_tokens_is_the_lower_of_the_tokenizers_and_the_models(
    copy: Path, tokens: int | None, positions: int, limit: int
) -> None:
    edit(copy, "tokenizer_config.json", model_max_length=tokens)
    edit(copy, "config.json", max_position_embeddings=positions)
    tokenizer = load_tokenizer(copy, remote_code=False)
    check_max_length(tokenizer, limit)
    with pytest.raises(ConfigError, match=f"training.max_length is {limit + 1}, but the model takes at most {limit} tokens"):
        check_max_length(tokenizer, limit + 1)


def test_a_model_that_cannot_be_told_what_is_padding_is_refused(encoder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(encoder, remote_code=False)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32, "max_position_embeddings": 64}
    FNetModel(FNetConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"\(fnet\) takes no attention mask, so .* choose another"):
        load_model(KIND, tmp_path, tokenizer, **LOADING)


def test_the_pad_token_reaches_the_models_config(decoder: Path) -> None:
    tokenizer = load_tokenizer(decoder, remote_code=False)
    model, head = load_model(KIND, decoder, tokenizer, **LOADING)
    assert head == "fresh"
    assert model.config.pad_token_id == tokenizer.pad_token_id == 3


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(encoder: Path) -> None:
    tokenizer = load_tokenizer(encoder, remote_code=False)
    size = len(tokenizer)
    tokenizer.add_tokens(["another"])
    with pytest.raises(ModelError, match=f"has {size} embeddings but its tokenizer {size + 1} tokens"):
        load_model(KIND, encoder, tokenizer, **LOADING)


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"model_type": "led", "max_encoder_position_embeddings": 32, "max_decoder_position_embeddings": 16}, 32),
        (
            {
                "model_type": "encoder-decoder",
                "encoder": {"model_type": "bert", "max_position_embeddings": 32},
                "decoder": {"model_type": "bert", "max_position_embeddings": 16},
            },
            32,
        ),
    ],
)
def test_what_an_encoder_takes_is_the_limit_of_what_is_read(config: dict[str, object], tokens: int, copy: Path) -> None:
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_tokenizer(copy, remote_code=False).model_max_length == tokens


@pytest.mark.parametrize(("model_type", "tokens"), [("roberta", 62), ("bert", 64)])
def test_a_model_that_counts_positions_from_its_pad_token_takes_fewer_tokens(
    model_type: str, tokens: int, encoder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(encoder, tmp_path / "model")
    config = {"model_type": model_type, "max_position_embeddings": 64, "pad_token_id": 1}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_tokenizer(folder, remote_code=False).model_max_length == tokens
