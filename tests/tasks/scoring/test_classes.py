"""Tests of the metrics of classes, against hand-worked cases and scikit-learn, and of where a difference comes from."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from tasks.scoring.calibration import BINS
from tasks.scoring.classes import class_analysis, class_metrics, class_statistics
from tests.helpers import calibration_error


def sums_of(cells: list[list[int]], nats: float = 0.0, gap: float = 0.0) -> np.ndarray:
    """Return the sums that rows of a confusion matrix have; `gap` is right rows less the sum of confidences, in a bin."""
    matrix = np.array(cells, float)
    return np.concatenate([matrix.sum(1), matrix.sum(0), np.diag(matrix), [nats], [gap], np.zeros(BINS - 1)])


def certain(predicted: list[int], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[predicted]


def test_metrics_of_a_worked_confusion() -> None:
    # Rows are labels, columns predictions:
    #        a  b  c | support        precision   recall   F1 = 2 * right / (support + predicted)
    #   a    4  1  0 | 5          a   4/6         4/5      8/11
    #   b    2  3  0 | 5          b   3/4         3/5      6/9
    #   c    0  0  2 | 2          c   2/2         2/2      4/4
    #        6  4  2 | 12 rows, 9 right
    # Matthews: (9 * 12 - (6*5 + 4*5 + 2*2)) / sqrt(144 - (36+16+4)) / sqrt(144 - (25+25+4)) = 54 / sqrt(88 * 90)
    found = class_metrics(sums_of([[4, 1, 0], [2, 3, 0], [0, 0, 2]], nats=6.0, gap=-3.0), ["a", "b", "c"])
    assert found == pytest.approx(
        {
            "accuracy": 9 / 12,
            "f1_weighted": (5 * 8 / 11 + 5 * 6 / 9 + 2) / 12,
            "f1_macro": (8 / 11 + 6 / 9 + 1) / 3,
            "matthews_correlation": 54 / (88 * 90) ** 0.5,
            "log_loss": 0.5,
            "calibration_error": 0.25,
            **{"precision/a": 4 / 6, "precision/b": 3 / 4, "precision/c": 1.0},
            **{"recall/a": 4 / 5, "recall/b": 3 / 5, "recall/c": 1.0},
            **{"f1/a": 8 / 11, "f1/b": 6 / 9, "f1/c": 1.0},
        },
        abs=1e-12,
    )


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([[5, 0], [0, 5]], {"accuracy": 1, "f1_macro": 1, "matthews_correlation": 1}),
        ([[0, 5], [5, 0]], {"accuracy": 0, "f1_macro": 0, "matthews_correlation": -1}),
        # One class for every row: nothing is learnt, whatever the accuracy says.
        ([[9, 0], [1, 0]], {"accuracy": 0.9, "matthews_correlation": 0, "precision/b": 0, "recall/b": 0, "f1/b": 0}),
        # A class without rows that was predicted once, and one that neither occurs nor is predicted.
        ([[3, 1], [0, 0]], {"recall/b": 0, "precision/b": 0, "recall/a": 0.75, "precision/a": 1, "f1_weighted": 6 / 7}),
        ([[4, 0], [0, 0]], {"accuracy": 1, "f1/b": 0, "f1_macro": 0.5, "matthews_correlation": 0}),
    ],
)
def test_metrics_at_the_borders(cells: list[list[int]], expected: dict[str, float]) -> None:
    found = class_metrics(sums_of(cells), ["a", "b"])
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_metrics_agree_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes, rows = int(rng.integers(2, 7)), int(rng.integers(5, 400))
    logits = rng.normal(0, 3, (rows, classes)).astype(np.float32)
    references = rng.integers(0, classes, rows)
    if seed % 4 == 1:
        logits[:, -1] = -50  # a class that is never predicted
    if seed % 4 == 2:
        references %= classes - 1  # a class without rows
    if seed % 4 == 3:
        logits[np.arange(rows), references] += 4  # a good classifier
    scores = np.exp(logits - logits.max(1, keepdims=True))
    scores /= scores.sum(1, keepdims=True)
    predicted, numbers, labels = scores.argmax(1), list(range(classes)), [f"c{number}" for number in range(classes)]

    found = class_metrics(class_statistics(scores, references).sum(0), labels)

    options = {"labels": numbers, "zero_division": 0}
    expected = {
        "accuracy": sk.accuracy_score(references, predicted),
        "f1_weighted": sk.f1_score(references, predicted, average="weighted", **options),
        "f1_macro": sk.f1_score(references, predicted, average="macro", **options),
        "matthews_correlation": sk.matthews_corrcoef(references, predicted),
    }
    per_class = sk.precision_recall_fscore_support(references, predicted, **options)[:3]
    for name, values in zip(("precision", "recall", "f1"), per_class, strict=True):
        expected |= {f"{name}/{label}": value for label, value in zip(labels, values, strict=True)}
    assert found.pop("log_loss") == pytest.approx(sk.log_loss(references, scores, labels=numbers), rel=1e-5)
    error = calibration_error(predicted == references, scores.max(1))
    assert found.pop("calibration_error") == pytest.approx(error, abs=1e-6)
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_row_counts_for_its_class_and_the_predicted_one_and_with_its_surprise() -> None:
    found = class_statistics(np.array([[0.25, 0.75], [0.5, 0.5]], np.float32), np.array([0, 1]))
    # A tie goes to the first class.
    np.testing.assert_allclose(found[:, :7], [[1, 0, 0, 1, 0, 0, np.log(4)], [0, 1, 1, 0, 0, 0, np.log(2)]])
    np.testing.assert_allclose(
        class_statistics(np.array([[0.25, 0.75]]), np.array([1]))[:, :7], [[0, 1, 0, 1, 0, 1, -np.log(0.75)]]
    )
    # Wrong with a confidence of 3/4, in the twelfth of fifteen bins, and with 1/2, in the eighth.
    assert found[:, 7:].sum(1).tolist() == [-0.75, -0.5]
    assert (found[0, 7 + 11], found[1, 7 + 7]) == (-0.75, -0.5)


def test_certainty_in_the_wrong_class_costs_much_but_not_endlessly() -> None:
    scores = certain([1, 0], 2)
    found = class_statistics(scores, np.array([0, 0]))[:, 6]
    assert found[0] == pytest.approx(-np.log(np.finfo(np.float32).eps))
    assert found.mean() == pytest.approx(sk.log_loss([0, 0], scores, labels=[0, 1]), rel=1e-5)


def frame(labels: str, predictions: str) -> pd.DataFrame:
    """Return predictions, a letter a row, of the classes `a` and `b`."""
    return pd.DataFrame(
        {
            **{
                name: pd.Categorical(list(letters), ["a", "b"])
                for name, letters in (("label", labels), ("prediction", predictions))
            },
            "probabilities": [[0.75, 0.25] if letter == "a" else [0.25, 0.75] for letter in predictions],
        }
    )


def test_the_analysis_counts_per_class_what_was_fixed_and_what_broke() -> None:
    found = class_analysis(frame("aaaabbb", "bbbbbbb"), frame("aaaabbb", "aaabbba"))
    assert found["labels"] == ["a", "b"]
    assert found["classes"] == [
        {"label": "a", "rows": 4, "right_before": 0, "right_after": 3, "fixed": 3, "broken": 0},
        {"label": "b", "rows": 3, "right_before": 3, "right_after": 2, "fixed": 0, "broken": 1},
    ]
    assert found["confusion"] == {"before": [[0, 4], [0, 3]], "after": [[3, 1], [1, 2]]}
    assert found["reliability"] == {
        "before": [{"rows": 7, "confidence": 0.75, "right": pytest.approx(3 / 7)}],
        "after": [{"rows": 7, "confidence": 0.75, "right": pytest.approx(5 / 7)}],
    }
    assert found["resolved"] == [{"label": "a", "taken_for": "b", "before": 4, "after": 1}]
    assert [(pair["label"], pair["after"]) for pair in found["remaining"]] == [("a", 1), ("b", 1)]
    assert found["sources"] == [
        "The classes that gained most rows: “a” (+3).",
        "The classes that lost rows: “b” (-1).",
        "The confusions that fell most: “a” taken for “b” (4 → 1).",
        "The most frequent confusions that are left: “a” taken for “b” (4 → 1); “b” taken for “a” (0 → 1).",
    ]


def test_where_nothing_changed_there_is_nothing_to_say() -> None:
    assert class_analysis(frame("aab", "aab"), frame("aab", "aab"))["sources"] == []
