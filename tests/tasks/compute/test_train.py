"""Tests of the command `train`: what is kept, when it ends, and that it can be repeated."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tasks.compute.channel import Channel
from tasks.compute.models import Hardware, load_model, load_tokenizer
from tasks.compute.predict import predict_rows, score
from tasks.compute.train import LengthGroupedSampler, train
from tasks.errors import ModelError, TrainingDiverged
from tasks.kinds import load_kind
from tests.helpers import topic_rows
from tests.tasks.compute.commands import LABELS, events, save_rows, save_tokens, train_arguments

KIND = load_kind("text-classification")


def run(*places: Path, stream: io.StringIO | None = None, **settings: Any) -> dict[str, Any]:
    return train(Channel(stream or io.StringIO()), **train_arguments(*places, **settings))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def validation_scores(model: Path, tokens: Path) -> dict[str, float]:
    tokenizer = load_tokenizer(model, remote_code=False)
    network, _ = load_model(KIND, model, tokenizer, LABELS, trained=True, allow_pickle=False, remote_code=False)
    rows = datasets.Dataset.load_from_disk(str(tokens / "validation"))
    found = predict_rows(KIND, network, rows, KIND.collator(tokenizer), Hardware("cpu", "fp32"))
    return score(KIND, found, np.array(rows["labels"][:]), LABELS)


class Trained(NamedTuple):
    """A finished training."""

    folder: Path
    answer: dict[str, Any]
    stream: io.StringIO


@pytest.fixture(scope="module")
def trained(decoder_tokens: Path, decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder, stream = tmp_path_factory.mktemp("trained") / "model", io.StringIO()
    return Trained(folder, run(decoder_tokens, decoder, folder, stream=stream), stream)


def test_training_learns_and_tells_what_it_did(trained: Trained) -> None:
    answer = trained.answer
    # 192 rows in batches of 8, three times.
    assert (answer["steps"], answer["planned_steps"], answer["stop_reason"]) == (72, 72, "finished")
    assert answer["validation"]["accuracy"] > 0.8
    assert [entry["epoch"] for entry in answer["history"] if "eval_accuracy" in entry] == [1, 2, 3]
    assert answer["device"] == "cpu, fp32"
    # `seconds` covers loading and saving too.
    assert answer["rows_per_s"] > 72 * 8 / answer["seconds"]


def test_the_folder_loads_by_itself_without_any_pickle(trained: Trained) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(trained.folder)
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.label2id == {label: number for number, label in enumerate(LABELS)}
    batch = AutoTokenizer.from_pretrained(trained.folder)(["rocket orbit comet", "team goal"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        assert model(**batch).logits.argmax(-1).tolist() == [LABELS.index("space"), LABELS.index("sport")]
    assert {path.suffix for path in trained.folder.iterdir()} == {".json", ".safetensors"}


def test_progress_counts_optimizer_steps(trained: Trained) -> None:
    sent = events(trained.stream)
    assert {event["event"] for event in sent} == {"progress"}
    assert [(event["done"], event["epoch"]) for event in sent if event["done"] in (24, 72)] == [(24, 1), (72, 3)]
    assert (sent[0]["done"], sent[0]["total"]) == (1, 72)
    assert sent[-1]["time_left_s"] == 0
    assert sent[-1]["loss"] < sent[1]["loss"]
    assert sent[-1]["rows_per_s"] > 0


def test_the_same_seed_repeats_metrics_and_weights_bit_for_bit(tokens: Path, encoder: Path, tmp_path: Path) -> None:
    # The encoder has dropout, so every sort of random number takes part.
    answers = [run(tokens, encoder, tmp_path / str(number), seed=seed) for number, seed in enumerate((1, 1, 2))]
    assert answers[0]["validation"] == answers[1]["validation"] != answers[2]["validation"]
    assert equal(weights(tmp_path / "0"), weights(tmp_path / "1"))
    assert not equal(weights(tmp_path / "0"), weights(tmp_path / "2"))


@pytest.fixture(scope="module")
def misleading(decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return tokens whose validation labels are all wrong: the more is learnt, the lower the validation scores."""
    folder, turned = tmp_path_factory.mktemp("misleading"), dict(zip(LABELS, [*LABELS[1:], LABELS[0]], strict=True))
    wrong = [row | {"label": turned[row["label"]]} for row in topic_rows(30, seed=1)]
    rows = save_rows(folder / "rows", train=topic_rows(192), validation=wrong, test=wrong)
    return save_tokens(folder / "tokens", rows, decoder)


def test_the_best_epoch_on_validation_is_kept_not_the_last(misleading: Path, decoder: Path, tmp_path: Path) -> None:
    answer = run(misleading, decoder, tmp_path, learning_rate=0.0003)
    accuracies = [entry["eval_accuracy"] for entry in answer["history"] if "eval_accuracy" in entry]
    assert accuracies[0] > max(accuracies[1:])
    assert answer["best_epoch"] == 1
    assert answer["validation"]["accuracy"] == accuracies[0]
    assert validation_scores(tmp_path, misleading) == answer["validation"]


def test_early_stopping_is_named_and_leaves_the_best_epoch(misleading: Path, decoder: Path, tmp_path: Path) -> None:
    answer = run(misleading, decoder, tmp_path, learning_rate=0.0003, epochs=5, early_stopping_patience=1)
    assert (answer["stop_reason"], answer["steps"], answer["planned_steps"]) == ("early_stopping", 48, 120)
    assert answer["best_epoch"] == 1
    assert validation_scores(tmp_path, misleading) == answer["validation"]


class StopsAtFirstProgress(io.StringIO):
    """A stream whose channel is asked to stop, as by SIGTERM, in the first optimizer step."""

    request_stop: Callable[[], None]

    def write(self, text: str) -> int:
        self.request_stop()
        return super().write(text)


def run_and_stop(tokens: Path, model: Path, output: Path, **settings: Any) -> dict[str, Any]:
    stream = StopsAtFirstProgress()
    channel = Channel(stream)
    stream.request_stop = channel.request_stop
    return train(channel, **train_arguments(tokens, model, output, **settings))


def test_a_stop_ends_training_after_its_step_without_evaluation_or_model(tokens: Path, encoder: Path, tmp_path: Path) -> None:
    answer = run_and_stop(tokens, encoder, tmp_path / "model")
    assert (answer["stop_reason"], answer["steps"], answer["planned_steps"]) == ("preempted", 1, 72)
    assert not any("eval_accuracy" in entry for entry in answer["history"])
    assert answer["validation"] == {}
    assert not (tmp_path / "model").exists()


def test_a_stop_in_the_last_step_leaves_a_whole_training(tokens: Path, encoder: Path, tmp_path: Path) -> None:
    answer = run_and_stop(tokens, encoder, tmp_path, epochs=1, batch_size=192)
    assert (answer["stop_reason"], answer["steps"], answer["best_epoch"]) == ("finished", 1, 1)
    assert validation_scores(tmp_path, tokens) == answer["validation"]


def test_a_loss_that_is_no_number_ends_training_with_step_and_rate(tokens: Path, encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"The loss is nan at optimizer step \d+ with learning rate .*lower training\."):
        run(tokens, encoder, tmp_path / "model", learning_rate=1e30)
    assert not (tmp_path / "model").exists()


def test_infinite_weights_end_training_in_the_first_step(tokens: Path, encoder: Path, tmp_path: Path) -> None:
    for path in encoder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = {name: torch.full_like(weight, torch.inf) for name, weight in weights(encoder).items()}
    save_file(broken, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(TrainingDiverged, match="The loss is nan at optimizer step 1 "):
        run(tokens, tmp_path, tmp_path / "model")


def test_a_decoders_pad_token_is_kept(trained: Trained, decoder: Path) -> None:
    assert AutoTokenizer.from_pretrained(decoder).pad_token is None
    assert AutoTokenizer.from_pretrained(trained.folder).pad_token == "[SEP]"
    assert AutoModelForSequenceClassification.from_pretrained(trained.folder).config.pad_token_id == 3


def test_bf16_trains_and_saves_fp32(decoder_tokens: Path, decoder: Path, tmp_path: Path) -> None:
    answer = run(decoder_tokens, decoder, tmp_path, precision="bf16")
    assert answer["validation"]["accuracy"] > 0.8
    assert answer["device"] == "cpu, bf16"
    assert {weight.dtype for weight in weights(tmp_path).values()} == {torch.float32}


def test_a_model_that_cannot_be_loaded_is_an_error_of_its_own(tokens: Path, encoder: Path, tmp_path: Path) -> None:
    for path in encoder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:100] if path.suffix == ".safetensors" else path.read_bytes())
    with pytest.raises(ModelError, match="cannot be loaded"):
        run(tokens, tmp_path, tmp_path / "model")


LENGTHS = np.random.default_rng(0).integers(3, 100, 2_003)


def order(seed: int, epoch: int) -> list[int]:
    sampler = LengthGroupedSampler(LENGTHS, 16, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def padded(rows: list[int]) -> int:
    batches = [LENGTHS[rows[start : start + 16]] for start in range(0, len(rows), 16)]
    return sum(int(batch.max()) * len(batch) for batch in batches)


def test_the_sampler_gives_every_row_once_in_an_order_of_seed_and_epoch_alone() -> None:
    first = order(1, 0)
    assert sorted(first) == list(range(2_003))
    assert len(LengthGroupedSampler(LENGTHS, 16, 1)) == 2_003
    torch.manual_seed(5)
    assert order(1, 0) == first
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1, 2)}) == 6


def test_the_sampler_pads_little_and_keeps_batches_in_random_order() -> None:
    grouped, random = order(1, 0), np.random.default_rng(0).permutation(2_003).tolist()
    assert padded(grouped) < 1.1 * LENGTHS.sum()
    assert padded(random) > 1.5 * LENGTHS.sum()
    means = np.array([LENGTHS[grouped[start : start + 16]].mean() for start in range(0, 2_000, 16)])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 799, 800])
def test_the_short_batch_comes_last(rows: int) -> None:
    # Batches of rows of one length each: were a short one in the middle, later batches would mix lengths.
    lengths = np.repeat(np.arange(rows // 16 + 1), 16)[:rows]
    order = list(LengthGroupedSampler(lengths, 16, 3))
    assert sorted(order) == list(range(rows))
    for start in range(0, rows, 16):
        assert len(set(lengths[order[start : start + 16]].tolist())) == 1
