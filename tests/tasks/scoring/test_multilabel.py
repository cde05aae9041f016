"""Tests of the metrics of several labels per row: worked cases, and scikit-learn on random ones and at the borders."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from tasks.scoring.multilabel import multilabel_analysis, multilabel_metrics, multilabel_statistics, row_f1
from tests.helpers import calibration_error

LABELS = ["a", "b", "c"]


def scores_of(probabilities: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Return the metrics of rows, summed up in two parts."""
    labels = [f"l{number}" for number in range(references.shape[1])]
    sums = [multilabel_statistics(probabilities[part], references[part]).sum(0) for part in (slice(0, 3), slice(3, None))]
    return multilabel_metrics(sums[0] + sums[1], labels)


def test_metrics_of_worked_rows() -> None:
    # labels:     a b   a     b c   none
    # predicted:  a     a     a c   b
    # a: 2 hits, 1 alarm; b: 1 alarm, 2 misses; c: 1 hit.
    references = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]])
    probabilities = np.array([[0.75, 0.25, 0.25], [0.75, 0.25, 0.25], [0.75, 0.25, 0.75], [0.25, 0.75, 0.25]], np.float32)
    found = multilabel_metrics(multilabel_statistics(probabilities, references).sum(0), LABELS)
    assert found == pytest.approx(
        {
            "f1_micro": 6 / (6 + 2 + 2),
            "f1_macro": (4 / 5 + 0 + 1) / 3,
            "f1_weighted": (2 * 4 / 5 + 2 * 0 + 1 * 1) / 5,
            "f1_samples": (2 / 3 + 1 + 2 / 4 + 0) / 4,
            "subset_accuracy": 1 / 4,
            "hamming_loss": 4 / 12,
            "log_loss": (8 * -np.log(0.75) + 4 * -np.log(0.25)) / 12,
            # Of 5 decisions at 0.75 three are of labels that the row has, of 7 at 0.25 two.
            "calibration_error": (abs(3 - 5 * 0.75) + abs(2 - 7 * 0.25)) / 12,
            **{"precision/a": 2 / 3, "precision/b": 0.0, "precision/c": 1.0},
            **{"recall/a": 1.0, "recall/b": 0.0, "recall/c": 1.0},
            **{"f1/a": 4 / 5, "f1/b": 0.0, "f1/c": 1.0},
        },
        abs=1e-12,
    )


def test_statistics_of_a_row_and_the_threshold() -> None:
    found = multilabel_statistics(np.array([[0.5, 0.25, 0.25, 0.75]], np.float64), np.array([[1, 1, 0, 0]]))
    # A probability of a half is a yes: a hit, a miss, nothing, an alarm.
    assert found[0, :12].tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0]
    nats = -(np.log(0.5) + np.log(0.25) + np.log(0.75) + np.log(0.25)) / 4
    assert found[0, 12:17].tolist() == pytest.approx([1, 0, 2, 0.5, nats])
    assert found[0, 17:].sum() == pytest.approx(2 - 1.75)


def expected(probabilities: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Return what scikit-learn says."""
    predicted = (probabilities >= 0.5).astype(int)
    none = {"zero_division": 0}
    found = {
        **{f"f1_{name}": sk.f1_score(references, predicted, average=name, **none) for name in ("micro", "macro", "weighted")},
        "f1_samples": sk.f1_score(references, predicted, average="samples", zero_division=1),
        "subset_accuracy": sk.accuracy_score(references, predicted),
        "hamming_loss": sk.hamming_loss(references, predicted),
        "log_loss": sk.log_loss(references.ravel(), probabilities.ravel(), labels=[0, 1]),
    }
    per_label = sk.precision_recall_fscore_support(references, predicted, average=None, **none)[:3]
    for name, values in zip(("precision", "recall", "f1"), per_label, strict=True):
        found |= {f"{name}/l{number}": value for number, value in enumerate(values)}
    return found


def agree(probabilities: np.ndarray, references: np.ndarray) -> None:
    found, wanted = scores_of(probabilities, references), expected(probabilities, references)
    assert found.pop("log_loss") == pytest.approx(wanted.pop("log_loss"), rel=1e-5, abs=1e-6)
    error = calibration_error(references.ravel(), probabilities.ravel())
    assert found.pop("calibration_error") == pytest.approx(error, abs=1e-6)
    assert found == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("seed", range(100))
def test_metrics_agree_with_scikit_learn(seed: int) -> None:
    for case in range(10):
        rng = np.random.default_rng((seed, case))
        rows, labels = int(rng.integers(4, 60)), int(rng.integers(2, 7))
        references = (rng.random((rows, labels)) < rng.uniform(0.05, 0.95)).astype(int)
        noise = rng.normal(0, rng.uniform(0.5, 4), (rows, labels))
        logits = noise + rng.uniform(0, 4) * (2 * references - 1) + rng.normal(0, 1)
        agree((1 / (1 + np.exp(-logits))).astype(np.float32), references)


@pytest.mark.parametrize("predicted", ["none", "all", "first", "right"])
@pytest.mark.parametrize("wanted", ["none", "all", "first", "last"])
def test_metrics_agree_with_scikit_learn_at_the_borders(wanted: str, predicted: str) -> None:
    sets = {
        "none": np.zeros((6, 3), int),
        "all": np.ones((6, 3), int),
        "first": np.tile([1, 0, 0], (6, 1)),
        "last": np.tile([[0, 0, 1], [0, 0, 0]], (3, 1)),
    }
    references = sets[wanted]
    certain = sets.get(predicted, references).astype(np.float32)
    agree(certain, references)
    agree(np.where(certain == 1, 0.875, 0.125).astype(np.float32), references)


def test_a_row_without_labels_is_right_where_none_are_predicted() -> None:
    probabilities = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.25], [0.75, 0.75]])
    assert row_f1(probabilities, np.array([[0, 0], [0, 0], [1, 0], [1, 0]])).tolist() == pytest.approx([1, 0, 0, 2 / 3])


def frame(*rows: tuple[str, str]) -> pd.DataFrame:
    """Return rows of labels and predictions, a letter each."""
    return pd.DataFrame(
        {
            "labels": [list(left) for left, _ in rows],
            "predictions": [list(right) for _, right in rows],
            "probabilities": [[0.75 if letter in right else 0.25 for letter in "ab"] for _, right in rows],
        }
    )


def test_the_analysis_counts_per_label_what_was_fixed_and_what_broke() -> None:
    before = frame(("ab", "b"), ("a", ""), ("", "b"), ("b", "b"))
    after = frame(("ab", "ab"), ("a", "a"), ("", ""), ("b", "a"))
    found = multilabel_analysis(before, after, ["a", "b"])
    assert found["labels"] == ["a", "b"]
    assert found["classes"] == [
        {"label": "a", "rows": 2, "right_before": 2, "right_after": 3, "fixed": 2, "broken": 1},
        {"label": "b", "rows": 2, "right_before": 3, "right_after": 3, "fixed": 1, "broken": 1},
    ]
    assert "confusion" not in found
    assert found["reliability"]["before"] == [
        {"rows": 5, "confidence": 0.25, "right": 0.4},
        {"rows": 3, "confidence": 0.75, "right": pytest.approx(2 / 3)},
    ]
    assert found["sources"] == [
        "All labels are right in 1 of 4 rows before and in 3 after.",
        "The labels decided rightly in more rows than before: “a” (+1).",
    ]


def test_the_analysis_names_labels_that_lost() -> None:
    found = multilabel_analysis(frame(("a", "a"), ("", "")), frame(("a", ""), ("", "b")), ["a", "b"])
    assert found["sources"][1:] == ["The labels decided rightly in fewer: “b” (-1), “a” (-1)."]
