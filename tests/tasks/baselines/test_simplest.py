"""Tests of the simplest guesses: each kind has one, and those of classes and numbers are scikit-learn's."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, f1_score, log_loss

from tasks.baselines.scores import score_guess
from tasks.compute.channel import Channel
from tasks.compute.guess import guess
from tasks.kinds import kind_names, load_kind
from tasks.kinds.kind import Kind
from tasks.records import Scores
from tests.tasks.kinds.cases import CASES, LABELS, PROBLEMS, answered, labelled, measured, several, summarized
from tests.tasks.kinds.language_models import Lab, make_masked, save_rows

NAMES = [*kind_names(), *(f"text-classification/{problem}" for problem in PROBLEMS)]
SIMPLEST = {
    "text-classification": "majority",
    "text-classification/multi_label": "majority",
    "text-classification/regression": "mean",
    "summarization": "lead",
    "question-answering": "overlap",
    "causal-lm": "unigram",
    "masked-lm": "unigram",
}


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_masked(tmp_path_factory.mktemp("models") / "masked")


@pytest.mark.parametrize("name", NAMES)
def test_each_kind_has_a_guess_with_the_metrics_and_files_of_a_model(
    name: str, masked: Path, decoder: Path, tmp_path: Path
) -> None:
    kind_name, _, problem = name.partition("/")
    case = PROBLEMS[problem] if problem else CASES[kind_name]
    splits = {"train": case.rows(40, 1), "validation": case.rows(12, 2), "test": case.rows(17, 3)}
    model = decoder if kind_name == "causal-lm" else masked
    lab = Lab(tmp_path / "lab", kind_name, model, case.settings_for("bert"), labels=case.labels, **splits)
    output = tmp_path / "output"
    output.mkdir()
    kind = made(kind_name, case.labels, lab.settings)
    if kind.guesses_tokens:
        lab.tokenize()
        arguments = {"kind_name": kind_name, "settings": lab.settings, "labels": lab.labels, "model": str(model)}
        folders = {"dataset": str(lab.rows), "tokens": str(lab.tokens), "output": str(output)}
        scores = Scores(**guess(Channel.__new__(Channel), **arguments, **folders, remote_code=False))
    else:
        scores = score_guess(output, kind, lab.rows)
    assert kind.simplest == SIMPLEST[name]
    assert (scores.rows, scores.head, scores.device) == (17, "none", "cpu")
    assert kind.primary_metric in scores.metrics
    assert all(np.isfinite(value) for value in scores.metrics.values())
    assert json.loads((output / "metrics.json").read_text(encoding="utf-8")) == scores.metrics
    assert pd.read_parquet(output / "predictions.parquet")["id"].tolist() == [f"test-{number}" for number in range(17)]
    sums = sparse.load_npz(output / "statistics.npz").sum(0)
    assert {key: float(value) for key, value in kind.metrics(sums).items()} == scores.metrics


def made(name: str, labels: Any = (), settings: Any = None) -> Kind:
    kind = load_kind(name)
    return kind(kind.config_class.model_validate(settings or {}), tuple(labels))


def scored(folder: Path, kind: Kind, **splits: list[dict[str, Any]]) -> tuple[Scores, pd.DataFrame]:
    (folder / "output").mkdir(parents=True)
    scores = score_guess(folder / "output", kind, save_rows(folder / "rows", **splits))
    return scores, pd.read_parquet(folder / "output" / "predictions.parquet")


def test_majority_is_scikit_learns_dummy(tmp_path: Path) -> None:
    # Five of class 2 more: a majority that is not the first class.
    train, test = labelled(30, 1) + [{"text": "more", "label": 2}] * 5, labelled(20, 2)
    scores, frame = scored(tmp_path, made("text-classification", LABELS), train=train, test=test)
    dummy = DummyClassifier(strategy="prior").fit([[0]] * 35, [row["label"] for row in train])
    truth, found = [row["label"] for row in test], dummy.predict_proba([[0]] * 20)
    np.testing.assert_allclose(np.stack(frame["probabilities"].to_list()), found, rtol=1e-6)
    assert set(frame["prediction"]) == {LABELS[2]}
    assert scores.metrics["accuracy"] == accuracy_score(truth, dummy.predict([[0]] * 20))
    assert scores.metrics["log_loss"] == pytest.approx(log_loss(truth, found, labels=[0, 1, 2]), rel=1e-6)
    assert scores.metrics["f1_macro"] == pytest.approx(f1_score(truth, dummy.predict([[0]] * 20), average="macro"))


def test_of_several_labels_each_has_its_share(tmp_path: Path) -> None:
    train = several(24, 1)
    kind = made("text-classification", LABELS, {"problem": "multi_label"})
    _, frame = scored(tmp_path, kind, train=train, test=several(9, 2))
    shares = [np.mean([number in row["label"] for row in train]) for number in range(3)]
    np.testing.assert_allclose(np.stack(frame["probabilities"].to_list()), [shares] * 9, rtol=1e-6)


def test_the_mean_explains_nothing(tmp_path: Path) -> None:
    train = measured(30, 1)
    scores, frame = scored(
        tmp_path, made("text-classification", (), {"problem": "regression"}), train=train, test=measured(20, 2)
    )
    assert frame["prediction"].tolist() == pytest.approx([np.mean([row["label"] for row in train])] * 20)
    assert -0.2 < scores.metrics["r2"] <= 0


def test_the_lead_is_as_long_as_summaries_are_in_train(tmp_path: Path) -> None:
    test = summarized(8, 2)
    _, frame = scored(tmp_path, made("summarization"), train=summarized(20, 1), test=test)
    # Summaries are the first two words.
    assert frame["prediction"].tolist() == [row["summary"] for row in test]


def test_overlap_gives_no_answer_where_validation_wants_none(tmp_path: Path) -> None:
    answerable = [row for row in answered(40, 1) if '"text": []' not in row["answers"]]
    none = [{**row, "answers": '{"text": [], "answer_start": []}'} for row in answerable]
    given, _ = scored(tmp_path / "a", made("question-answering"), train=answerable, validation=answerable, test=none)
    assert given.calibration == {}
    assert given.metrics["exact_match"] == 0
    silent, frame = scored(tmp_path / "b", made("question-answering"), train=answerable, validation=none, test=none)
    assert set(silent.calibration) == {"no_answer_threshold"}
    assert set(frame["prediction"]) == {""}
    assert silent.metrics["exact_match"] == 1


def test_nothing_is_learnt_from_validation_or_test(tmp_path: Path) -> None:
    kind, train = made("text-classification", LABELS), labelled(30, 1)
    for number, label in enumerate((0, 1)):
        folder = tmp_path / str(number)
        other = [{"text": "other", "label": label}] * 20
        scored(folder, kind, train=train, validation=other, test=other)
    first, second = (pd.read_parquet(tmp_path / number / "output" / "predictions.parquet") for number in "01")
    assert first["probabilities"].map(tuple).tolist() == second["probabilities"].map(tuple).tolist()
    assert datasets.Dataset.load_from_disk(str(tmp_path / "0" / "rows" / "test"))["label"][0] == 0
