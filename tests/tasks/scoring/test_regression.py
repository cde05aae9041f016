"""Tests of the metrics of numbers: worked cases, and scikit-learn and SciPy on random ones and at the borders."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk

from tasks.scoring.regression import regression_analysis, regression_metrics, regression_statistics


def scores_of(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Return the metrics of rows, summed up in two parts."""
    parts = [slice(0, 3), slice(3, None)]
    return regression_metrics(sum(regression_statistics(predictions[part], references[part]).sum(0) for part in parts))


def test_metrics_of_worked_rows() -> None:
    # Errors 1, -1, 2, 0; the references' mean is 3, their squared differences from it are 4, 1, 0, 9.
    references, predictions = np.array([1.0, 2.0, 3.0, 6.0]), np.array([2.0, 1.0, 5.0, 6.0])
    found = regression_metrics(regression_statistics(predictions, references).sum(0))
    assert found == pytest.approx(
        {
            "r2": 1 - 6 / 14,
            # Differences from the means 3 and 3.5: (-2, -1, 0, 3) and (-1.5, -2.5, 1.5, 2.5).
            "pearson": (3 + 2.5 + 7.5) / (14 * 17) ** 0.5,
            "mae": 1.0,
            "rmse": 1.5**0.5,
            "mse": 1.5,
        },
        abs=1e-12,
    )


def test_statistics_of_a_row() -> None:
    assert regression_statistics(np.array([2.0]), np.array([-3.0])).tolist() == [[1, -3, 2, 9, 4, -6, 5, 25]]


@pytest.mark.parametrize("seed", range(100))
def test_metrics_agree_with_scikit_learn_and_scipy(seed: int) -> None:
    for case in range(10):
        rng = np.random.default_rng((seed, case))
        rows = int(rng.integers(4, 300))
        references = rng.normal(rng.uniform(-50, 50), 10 ** rng.uniform(-2, 3), rows)
        if case % 3 == 0:
            references = np.round(references)  # ties
        predictions = rng.uniform(-1, 2) * references + rng.normal(0, references.std() + 0.1, rows)
        found = scores_of(predictions, references)
        assert found["r2"] == pytest.approx(sk.r2_score(references, predictions), abs=1e-7, rel=1e-7)
        if references.std():
            assert found["pearson"] == pytest.approx(stats.pearsonr(references, predictions).statistic, abs=1e-7)
        assert found["mae"] == pytest.approx(sk.mean_absolute_error(references, predictions), rel=1e-12)
        assert found["mse"] == pytest.approx(sk.mean_squared_error(references, predictions), rel=1e-12)
        assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(references, predictions), rel=1e-12)


@pytest.mark.parametrize(
    ("references", "predictions"),
    [
        ([0.5] * 7, [0.5] * 7),
        ([0.5] * 7, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [0.3] * 7),
        ([1e6 + 0.5] * 7, [1e6] * 7),
        ([0.0] * 5, [0.0] * 5),
        ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]),
        ([1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]),
    ],
)
def test_r2_agrees_with_scikit_learn_at_the_borders(references: list[float], predictions: list[float]) -> None:
    found = scores_of(np.array(predictions), np.array(references))
    assert found["r2"] == pytest.approx(sk.r2_score(references, predictions), abs=1e-12)
    constant = len(set(references)) == 1 or len(set(predictions)) == 1
    assert found["pearson"] == (0 if constant else pytest.approx(np.corrcoef(references, predictions)[0, 1], abs=1e-12))


@pytest.mark.parametrize("number", [0.1, -0.7, 1e6 + 0.1, 1e-9 / 3])
def test_equal_numbers_have_no_spread_however_their_sums_are_rounded(number: float) -> None:
    some = np.linspace(0, 1, 333)
    constant = np.full(333, number)
    assert scores_of(some, constant)["r2"] == scores_of(some, constant)["pearson"] == scores_of(constant, some)["pearson"] == 0
    assert scores_of(constant, constant)["r2"] == 1


def test_numbers_far_from_zero_keep_their_spread() -> None:
    # Years: a spread of a few against a size of 2,000.
    references = np.random.default_rng(0).normal(2000, 5, 500)
    predictions = references + np.random.default_rng(1).normal(0, 3, 500)
    assert scores_of(predictions, references)["r2"] == pytest.approx(sk.r2_score(references, predictions), abs=1e-7)


def test_a_single_row_has_no_spread() -> None:
    assert regression_metrics(regression_statistics(np.array([2.0]), np.array([1.0])).sum(0)) == {
        **{"r2": 0.0, "pearson": 0.0},
        **{"mae": 1.0, "rmse": 1.0, "mse": 1.0},
    }


def test_the_analysis_tells_the_error_by_quarters_and_the_bias() -> None:
    label = [8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    before = pd.DataFrame({"label": label, "prediction": [0.0] * 8})
    after = pd.DataFrame({"label": label, "prediction": [value + 1 for value in label]})
    assert regression_analysis(before, after)["sources"] == [
        "Mean absolute error by quarters of the rows, from the lowest numbers to the highest: "
        "1 to 2: 1.5 → 1; 3 to 4: 3.5 → 1; 5 to 6: 5.5 → 1; 7 to 8: 7.5 → 1.",
        "Predictions are off by -4.5 before and +1 after in the mean.",
    ]


def test_the_analysis_of_fewer_rows_than_quarters() -> None:
    frame = pd.DataFrame({"label": [1.0], "prediction": [2.0]})
    assert regression_analysis(frame, frame)["sources"][0].endswith("highest: 1 to 1: 1 → 1.")
