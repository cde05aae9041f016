"""Tests of the command `evaluate`: the order of rows, padding, what is written, and the scores."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from transformers import AutoTokenizer, PreTrainedModel

from tasks.compute import attention
from tasks.compute.channel import Channel
from tasks.compute.models import Hardware, bind, load_model, load_tokenizer, set_up
from tasks.compute.predict import Predictor, batch_positions, batches_by_length, evaluate, load_split, score
from tasks.metrics import summed_statistics
from tests.helpers import make_encoder
from tests.tasks.compute.commands import LABELS, evaluate_arguments, events, save_tokens

KIND = bind("text-classification", {}, LABELS)
CPU = Hardware("cpu", "fp32")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("tokens", "rows"), [(64, 8), (200, 1000), (1, 4)])
def test_batches_hold_every_row_once_within_the_budget_the_longest_first(seed: int, tokens: int, rows: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 100, 300)
    batches = list(batches_by_length(lengths, np.full(300, tokens), rows))
    assert sorted(np.concatenate(batches)) == list(range(300))
    assert (np.diff(lengths[np.concatenate(batches)]) <= 0).all()
    for batch in batches:
        assert len(batch) <= rows
        assert len(batch) == 1 or lengths[batch].max() * len(batch) <= tokens
    for batch in batches[:-1]:
        assert len(batch) == rows or lengths[batch].max() * (len(batch) + 1) > tokens


def test_batches_of_a_worked_case() -> None:
    # 20 is longer than the budget of 12 and goes alone; three of length 4 or 3 fit into 12, then the rest; ties keep their order.
    lengths = np.array([3, 20, 4, 1, 4, 1])
    assert [batch.tolist() for batch in batches_by_length(lengths, np.full(6, 12), 100)] == [[1], [2, 4, 0], [3, 5]]
    assert list(batches_by_length(np.array([], int), np.array([], int), 100)) == []
    # The first row of a batch says how many tokens it has.
    tokens = np.array([12, 12, 12, 12, 6, 12])
    assert [batch.tolist() for batch in batches_by_length(lengths, tokens[::-1], 100)] == [[1], [2, 4, 0], [3, 5]]
    assert [batch.tolist() for batch in batches_by_length(lengths, np.array([9, 9, 9, 2, 9, 2]), 100)] == [[1], [2, 4], [0, 3, 5]]


@pytest.mark.parametrize(("texts", "expected"), [(0, 48), (1, 192), (4, 48), (20, 48)])
def test_a_cpu_writes_for_more_rows_at_once_than_it_reads(texts: int, expected: int) -> None:
    features = datasets.Dataset.from_dict({"length": [64] * 1000})
    assert len(next(batch_positions(features, CPU, texts))) == expected


def test_a_gpu_writes_for_as_many_rows_as_it_reads() -> None:
    features, gpu = datasets.Dataset.from_dict({"length": [64] * 1000}), Hardware("cuda", "fp32")
    assert len(next(batch_positions(features, gpu, 1))) == len(next(batch_positions(features, gpu)))


def test_a_cpu_takes_more_short_rows_at_once_and_long_ones_by_the_width_that_they_are_padded_to() -> None:
    features = datasets.Dataset.from_dict({"length": [129] * 100 + [136] * 100 + [128] * 100 + [100] * 100})
    batches = [batch.tolist() for batch in batch_positions(features, CPU)]
    assert [len(batch) for batch in batches[:13]] == [15] * 13  # 2048 // 136, be they of 129 tokens or of 136
    assert batches[13] == [*range(195, 200), *range(200, 210)]  # the last long ones, and short ones beside them
    assert [len(batch) for batch in batches[14:]] == [24, 24, 24, 24, 30, 30, 30, 4]  # 3072 // 128, 3072 // 100


@pytest.mark.parametrize(("device", "expected"), [("cpu", [7, 5, 128, 136]), ("cuda", [8, 8, 128, 136])])
def test_a_cpu_pads_short_rows_to_the_longest_alone(
    encoder: Path, device: str, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(KIND, load_tokenizer(encoder, remote_code=False), Hardware(device, "fp32"))
    monkeypatch.setattr(torch.Tensor, "to", lambda values, device: values)
    predictor.tokenizer.model_max_length = 512
    batches = [
        {"input_ids": [[9] * length for length in lengths], "labels": [0, 1]} for lengths in ([7, 3], [5, 5], [128, 1], [129, 1])
    ]
    assert [predictor._batch(batch)["input_ids"].shape[1] for batch in batches] == expected


@pytest.fixture(params=["encoder", "decoder"])
def tokenized(request: pytest.FixtureRequest, rows: Path, tmp_path: Path) -> tuple[Path, Path]:
    folder: Path = request.getfixturevalue(request.param)
    return folder, save_tokens(tmp_path / "tokens", rows, folder)


Predict = Callable[..., np.ndarray]


def load(folder: Path) -> tuple[PreTrainedModel, Predict]:
    """Load a model whose predictions differ from row to row, as those of freshly drawn weights hardly do."""
    tokenizer = load_tokenizer(folder, remote_code=False)
    torch.manual_seed(0)
    model, _ = load_model(KIND, folder, tokenizer, trained=False, allow_pickle=False, remote_code=False)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(10 if weight.dim() > 1 else 1)
    predictor = Predictor(KIND, tokenizer, CPU)
    return model, lambda *arguments: predictor(model, *arguments)["probabilities"]


def one_by_one(model: PreTrainedModel, rows: datasets.Dataset) -> np.ndarray:
    """Predict each row alone, unpadded, without any code of the project."""
    model.eval()
    with torch.inference_mode():
        return np.stack([model(input_ids=torch.tensor([ids])).logits.softmax(-1)[0].numpy() for ids in rows["input_ids"]])


def test_batched_and_padded_rows_score_as_each_row_alone_in_its_own_place(
    tokenized: tuple[Path, Path],
) -> None:
    folder, tokens = tokenized
    model, predict = load(folder)
    features, rows = load_split(str(tokens / "dataset"), str(tokens), "test")
    found, alone = predict(features, rows), one_by_one(model, features)
    np.testing.assert_allclose(found, alone, atol=1e-5)
    assert len(np.unique(features["length"][:])) > 3
    assert found.std(0).max() > 0.05


def test_a_row_beyond_the_budget_of_a_batch_is_predicted_too(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "long", positions=1200)
    rows = {"input_ids": [[2, 25, 3], [2, *[20] * 1150, 3], [2, 30, 31, 3]], "labels": [0, 1, 2], "length": [3, 1152, 4]}
    model, predict = load(folder)
    data = datasets.Dataset.from_dict(rows)
    np.testing.assert_allclose(predict(data, data), one_by_one(model, data), atol=1e-5)


def test_predicting_uses_no_dropout_and_leaves_training_on(tokens: Path, encoder: Path) -> None:
    split = load_split(str(tokens / "dataset"), str(tokens), "validation")
    model, predict = load(encoder)
    model.train()
    first, second = (predict(*split) for _ in range(2))
    assert first.tolist() == second.tolist()
    assert model.training


def test_in_bf16_weights_are_turned_into_it_once_and_attention_goes_by_steps(
    tokens: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    steps = attention._by_steps
    monkeypatch.setattr(attention, "_has_amx", lambda: False)
    monkeypatch.setattr(attention, "_by_steps", lambda *given: calls.append(given[0].dtype) or steps(*given))
    monkeypatch.setattr("tasks.compute.predict._ROWS_PER_BATCH", 4)
    set_up(0)
    model, _ = load(encoder)
    split = load_split(str(tokens / "dataset"), str(tokens), "validation")
    batches = -(-len(split[0]) // 4)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        Predictor(KIND, load_tokenizer(encoder, remote_code=False), Hardware("cpu", "bf16"))(model, *split)
    casts = [event.input_shapes[0] for event in profile.events() if event.name == "aten::_to_copy"]
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    for shape in {tuple(layer.weight.shape) for layer in layers}:
        assert casts.count(list(shape)) == sum(layer.weight.shape == shape for layer in layers)
    assert batches > 2
    assert calls == [torch.bfloat16] * batches * model.config.num_hidden_layers


def test_progress_ends_with_all_rows(tokens: Path, encoder: Path) -> None:
    seen: list[tuple[int, int]] = []
    _, predict = load(encoder)
    predict(*load_split(str(tokens / "dataset"), str(tokens), "train"), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (192, 192)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_scores_over_many_chunks_are_those_of_all_rows() -> None:
    rng = np.random.default_rng(0)
    predictions, references = rng.dirichlet([1, 1, 1], 20_500).astype(np.float32), rng.integers(0, 3, 20_500)
    rows = datasets.Dataset.from_dict({"label": references})
    found = score(KIND, summed_statistics(KIND, {"probabilities": predictions}, rows), len(rows))
    assert found["accuracy"] == pytest.approx(accuracy_score(references, predictions.argmax(1)))
    assert found["log_loss"] == pytest.approx(log_loss(references, predictions, labels=[0, 1, 2]), rel=1e-5)


def test_evaluate_writes_what_it_scored_row_by_row(tokens: Path, rows: Path, encoder: Path, tmp_path: Path) -> None:
    stream = io.StringIO()
    answer = evaluate(Channel(stream), **evaluate_arguments(tokens, encoder, tmp_path))
    frame = pd.read_parquet(tmp_path / "predictions.parquet")
    source = datasets.Dataset.load_from_disk(str(rows / "test"))
    assert frame["id"].tolist() == source["id"][:]
    assert frame["label"].tolist() == [LABELS[number] for number in source["label"]]
    probabilities = np.stack(frame["probabilities"].to_list())
    assert frame["prediction"].tolist() == [LABELS[number] for number in probabilities.argmax(1)]
    # An untouched model seldom predicts every class: all the same both columns know all of them, in order.
    assert list(frame["label"].cat.categories) == list(frame["prediction"].cat.categories) == LABELS
    assert frame["score"].tolist() == (frame["label"] == frame["prediction"].astype(str)).astype(float).tolist()
    assert json.loads((tmp_path / "samples.json").read_text(encoding="utf-8")) == []
    metrics = answer["metrics"]
    assert metrics["accuracy"] == pytest.approx(accuracy_score(frame["label"], frame["prediction"].astype(str)))
    assert metrics["log_loss"] == pytest.approx(log_loss(source["label"], probabilities, labels=[0, 1, 2]), rel=1e-5)
    assert (answer["rows"], answer["head"], answer["device"]) == (30, "fresh", "cpu, fp32")
    assert answer["seconds"] > 0
    assert {event["event"] for event in events(stream)} == {"progress"}


def test_the_same_seed_gives_the_same_fresh_head(tokens: Path, encoder: Path, tmp_path: Path) -> None:
    metrics = []
    for number, seed in enumerate((1, 1, 2)):
        (tmp_path / str(number)).mkdir()
        arguments = evaluate_arguments(tokens, encoder, tmp_path / str(number), seed=seed)
        metrics.append(evaluate(Channel(io.StringIO()), **arguments)["metrics"])
    assert metrics[0] == metrics[1] != metrics[2]


def test_bf16_gives_about_the_scores_of_fp32(tokens: Path, encoder: Path, tmp_path: Path) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        answer = evaluate(Channel(io.StringIO()), **evaluate_arguments(tokens, encoder, tmp_path, precision=precision))
        losses.append(answer["metrics"]["log_loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_of_padding_changes_no_score_of_a_decoder(rows: Path, decoder: Path, tmp_path: Path, side: str) -> None:
    folder = shutil.copytree(decoder, tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": side}), encoding="utf-8")
    assert AutoTokenizer.from_pretrained(folder).padding_side == side
    features, data = load_split(str(rows), str(save_tokens(tmp_path / "tokens", rows, folder)), "test")
    model, predict = load(folder)
    np.testing.assert_allclose(predict(features, data), one_by_one(model, features), atol=1e-5)
