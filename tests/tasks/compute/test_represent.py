"""Tests of the command `represent`: its vectors are those of the model loaded by transformers alone."""

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tasks.compute.channel import Channel
from tasks.compute.represent import represent
from tasks.encoding.padding import padded
from tests.architectures import make_architecture
from tests.tasks.compute.commands import events, save_tokens


def vectors(model: Path, tokens: Path, output: Path, rows: dict[str, Any], stream: Any = None) -> dict[str, np.ndarray]:
    output.mkdir()
    answer = represent(
        Channel(stream or io.StringIO()),
        **{"tokens": str(tokens), "model": str(model), "output": str(output), "rows": rows, "seed": 1},
        **{"device": "cpu", "precision": "fp32", "allow_pickle": False, "remote_code": False},
    )
    assert answer == {"device": "cpu, fp32"}
    return {split: np.load(output / f"{split}.npy") for split in rows}


def by_hand(model: Any, tokens: Path, split: str) -> np.ndarray:
    """Return the mean of the last hidden states of each row, read alone and unpadded."""
    model.eval()
    rows = datasets.Dataset.load_from_disk(str(tokens / split))
    with torch.inference_mode():
        return np.stack([model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0).numpy() for ids in rows["input_ids"]])


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_a_vector_is_the_mean_over_a_rows_own_tokens(
    name: str, request: pytest.FixtureRequest, rows: Path, tmp_path: Path
) -> None:
    model: Path = request.getfixturevalue(name)
    tokens = save_tokens(tmp_path / "tokens", rows, model)
    found = vectors(model, tokens, tmp_path / "output", {"test": None})["test"]
    np.testing.assert_allclose(found, by_hand(AutoModel.from_pretrained(model), tokens, "test"), atol=1e-5)
    assert found.dtype == np.float32
    assert found.std(0).max() > 0.01


def test_of_an_encoder_decoder_it_is_the_encoders(rows: Path, tmp_path: Path) -> None:
    model = make_architecture("bart", tmp_path / "bart")
    tokens = save_tokens(tmp_path / "tokens", rows, model)
    found = vectors(model, tokens, tmp_path / "output", {"test": None})["test"]
    encoder = AutoModel.from_pretrained(model).get_encoder()
    np.testing.assert_allclose(found, by_hand(encoder, tokens, "test"), atol=1e-5)


def test_chosen_rows_are_in_the_order_asked_for(encoder: Path, tokens: Path, tmp_path: Path) -> None:
    stream = io.StringIO()
    found = vectors(encoder, tokens, tmp_path / "some", {"train": [7, 3, 90], "validation": None}, stream)
    every = vectors(encoder, tokens, tmp_path / "all", {"train": None})["train"]
    np.testing.assert_allclose(found["train"], every[[7, 3, 90]], atol=1e-5)
    assert found["validation"].shape == (30, 32)
    last = events(stream)[-1]
    assert (last["done"], last["total"]) == (33, 33)


def test_short_rows_are_padded_to_the_longest_alone(
    encoder: Path, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []

    def recording(*given: Any, **settings: Any) -> dict[str, torch.Tensor]:
        widths.append(padded(*given, **settings)["input_ids"].shape[1])
        return padded(*given, **settings)

    monkeypatch.setattr("tasks.compute.represent.padded", recording)
    vectors(encoder, tokens, tmp_path / "output", {"test": None})
    longest = max(datasets.Dataset.load_from_disk(str(tokens / "test"))["length"])
    assert widths[0] == longest
    assert longest % 8


def test_padding_does_not_count(encoder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    short, long = tokenizer("goal")["input_ids"], tokenizer("goal " * 20)["input_ids"]
    for name, ids in (("alone", [short]), ("beside", [long, short])):
        lengths = [len(row) for row in ids]
        datasets.Dataset.from_dict({"input_ids": ids, "length": lengths}).save_to_disk(str(tmp_path / name / "test"))
    alone, beside = (
        vectors(encoder, tmp_path / name, tmp_path / f"{name}-out", {"test": None})["test"] for name in ("alone", "beside")
    )
    np.testing.assert_allclose(alone[0], beside[1], atol=1e-5)
