"""Tests of numbers: how they are read, which heads fit, the scale that a head learns on, and what is kept, shown and counted."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from tasks.errors import DataError, InputError
from tasks.kinds.text_classification import KIND, TextClassification, TextClassificationConfig
from tasks.preflight import preflight
from tests.helpers import make_encoder, write_csv

LOADING = {"trained": False, "allow_pickle": False, "remote_code": False}


def config(**settings: object) -> TextClassificationConfig:
    return TextClassificationConfig.model_validate({"problem": "regression", **settings})


def kind() -> TextClassification:
    return KIND(config())


@pytest.mark.parametrize(
    ("value", "clause"),
    [
        ("many", "which is not a number"),
        ("nan", "which is not a finite number"),
        ("inf", "which is not a finite number"),
        ("1,5", "which is not a number"),
        ("", "so its number is missing"),
    ],
)
def test_a_label_that_is_no_number_is_refused_before_anything_starts(tmp_path: Path, value: str, clause: str) -> None:
    rows = [{"text": f"text number {number}", "label": value if number == 1 else str(number)} for number in range(60)]
    source = write_csv(tmp_path / "a.csv", rows)
    with pytest.raises(DataError, match=rf"a\.csv', row 2: column 'label' is '{value}', {clause}; .*data\.label_column"):
        preflight("text-classification", config(data={"source": str(source)}, store=str(tmp_path / "store")))


def test_equal_numbers_are_refused_before_anything_starts(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "a.csv", [{"text": f"text number {number}", "label": 3} for number in range(60)])
    with pytest.raises(InputError, match=r"All \d+ rows of split 'train' have the same target.* nothing to learn"):
        preflight("text-classification", config(data={"source": str(source)}, store=str(tmp_path / "store")))


def make_scorer(folder: Path, labels: tuple[str, ...] = ("score",), **settings: object) -> Path:
    make_encoder(folder, labels=labels)
    written = json.loads((folder / "config.json").read_text(encoding="utf-8")) | settings
    (folder / "config.json").write_text(json.dumps(written), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("labels", "problem_type", "head"),
    [
        (("score",), None, "pretrained"),
        (("score",), "regression", "pretrained"),
        (("yes",), "multi_label_classification", "fresh"),
        (("a", "b"), None, "fresh"),
    ],
)
def test_a_head_is_kept_if_it_gives_one_number(
    tmp_path: Path, labels: tuple[str, ...], problem_type: str | None, head: str
) -> None:
    model, found = kind().load_model(make_scorer(tmp_path / "model", labels, problem_type=problem_type), **LOADING)
    assert found == head
    assert model.config.problem_type == "regression"
    assert model.config.num_labels == 1
    assert model.classifier.weight.shape == (1, 32)


def features_of(*labels: float) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"input_ids": [[2, 5, 3]] * len(labels), "labels": labels})


def test_a_fresh_head_learns_standard_deviations_from_the_mean_of_train(encoder: Path) -> None:
    model, head = kind().load_model(encoder, **LOADING)
    found = kind().start(model, head, features_of(90.0, 100.0, 110.0, 100.0))
    assert (model.config.target_mean, model.config.target_sd) == pytest.approx((100, 50**0.5))
    assert found["labels"][:] == pytest.approx([-(2**0.5), 0, 2**0.5, 0])
    assert found["input_ids"][0] == [2, 5, 3]


def test_an_untouched_fresh_head_predicts_near_the_mean_of_train(encoder: Path) -> None:
    torch.manual_seed(0)
    model, head = kind().load_model(encoder, **LOADING)
    kind().start(model, head, features_of(999.0, 1000.0, 1001.0))
    model.eval()
    with torch.inference_mode():
        batch = {"input_ids": torch.tensor([[2, 5, 6, 3], [2, 30, 31, 3]]), "labels": torch.tensor([0.0, 0.0])}
        found = kind().predict(model, None, batch)
        logits = model(input_ids=batch["input_ids"]).logits[:, 0].numpy()
    np.testing.assert_allclose(found, 1000 + logits.astype(float) * (2 / 3) ** 0.5, rtol=1e-9)
    assert found.dtype == np.float64
    assert found == pytest.approx([1000, 1000], abs=5)


@pytest.mark.parametrize("labels", [(7.0,), (0.1, 0.1, 0.1)])
def test_numbers_that_do_not_differ_have_a_scale_too(encoder: Path, labels: tuple[float, ...]) -> None:
    model, head = kind().load_model(encoder, **LOADING)
    found = kind().start(model, head, features_of(*labels))
    assert (model.config.target_mean, model.config.target_sd) == (pytest.approx(labels[0]), 1)
    assert found["labels"][:] == pytest.approx([0] * len(labels))


@pytest.mark.parametrize(("scale", "mean", "deviation"), [({}, 0, 1), ({"target_mean": 5.0, "target_sd": 2.0}, 5, 2)])
def test_a_head_of_the_model_keeps_its_scale(tmp_path: Path, scale: dict[str, float], mean: float, deviation: float) -> None:
    model, head = kind().load_model(make_scorer(tmp_path / "model", **scale), **LOADING)
    found = kind().start(model, head, features_of(1.0, 3.0))
    assert head == "pretrained"
    assert (model.config.target_mean, model.config.target_sd) == (mean, deviation)
    assert found["labels"][:] == [(1 - mean) / deviation, (3 - mean) / deviation]


def test_the_scale_is_saved_with_the_model(encoder: Path, tmp_path: Path) -> None:
    model, head = kind().load_model(encoder, **LOADING)
    kind().start(model, head, features_of(1.0, 3.0))
    model.save_pretrained(tmp_path)
    again, found = kind().load_model(tmp_path, **LOADING | {"trained": True})
    assert found == "trained"
    assert (again.config.target_mean, again.config.target_sd) == (2, 1)


def test_the_loss_is_the_squared_error_on_the_head_s_scale(encoder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder)
    rows = {"text": ["goal match", "orbit", "goal shares"], "label": [10.0, 20.0, 60.0]}
    encoded = kind().encode(tokenizer, rows, train=True)
    assert encoded.features["labels"] == rows["label"]
    model, head = kind().load_model(encoder, **LOADING)
    model.eval()
    features = kind().start(model, head, datasets.Dataset.from_dict(encoded.features))
    batch = kind().collator(tokenizer, train=True)(list(features))
    assert batch["labels"].dtype == torch.float32
    with torch.inference_mode():
        loss = float(model(**batch).loss)
        found = kind().predict(model, tokenizer, batch)
    metrics = kind().metrics(kind().statistics({"numbers": found}, rows).sum(0))
    assert metrics["mse"] / model.config.target_sd**2 == pytest.approx(loss, rel=1e-5)


PREDICTIONS, ROWS = {"numbers": np.array([1.5, -2.0])}, {"label": [1.0, 2.0]}


def test_a_row_scores_better_the_nearer_its_prediction_is() -> None:
    assert kind().row_scores(PREDICTIONS, ROWS).tolist() == [-0.5, -4]
    table = kind().table(PREDICTIONS, ROWS)
    assert {name: column.to_pylist() for name, column in table.items()} == {"label": [1, 2], "prediction": [1.5, -2]}


def test_the_report_shows_numbers() -> None:
    assert kind().shown_row({"id": "1", "text": "a", "label": 2.0}) == (["a"], "2")
    assert kind().shown_prediction({"prediction": 1.23456789}) == "1.23457"


def test_what_the_kind_says_of_numbers() -> None:
    bound = kind()
    assert [(column.role, column.form) for column in bound.columns()] == [("text", "text"), ("label", "number")]
    assert (bound.primary_metric, bound.loss_metric, bound.right_or_wrong) == ("r2", None, False)
    metrics = bound.metrics(bound.statistics(PREDICTIONS, ROWS).sum(0))
    assert bound.primary_metric in metrics
    assert {name for name in metrics if name not in bound.lower_is_better} == {"r2", "pearson"}
