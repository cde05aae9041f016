"""Intervals, the exact test and the verdict: against SciPy and statsmodels, and by simulation where the truth is known."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
from scipy import sparse
from statsmodels.stats.contingency_tables import mcnemar

from tasks.scoring.classes import class_metrics, class_statistics
from tasks.scoring.perplexity import causal_metrics
from tasks.scoring.regression import regression_metrics, regression_statistics
from tasks.scoring.squad import squad_metrics
from tasks.significance import CONFIDENCE, Interval, exact_mcnemar, judge, paired_intervals, rows_needed

LABELS = ["a", "b", "c"]
QUICK = 1_000
MANY = 40_000
SIMULATIONS = 400
# Of so many simulations a share of 5 % is seen between 2.6 % and 8.2 % but for once in a thousand.
NOMINAL = scipy.stats.binom.ppf([0.0005, 0.9995], SIMULATIONS, 1 - CONFIDENCE) / SIMULATIONS


def mean_metrics(sums: Any) -> dict[str, Any]:
    return {"mean": sums[..., 1] / sums[..., 0]}


def mean_statistics(values: np.ndarray) -> Any:
    return sparse.csr_array(np.stack([np.ones(len(values)), values], 1))


def accuracy_statistics(right: np.ndarray) -> Any:
    return mean_statistics(right.astype(float))


def of_classes(references: np.ndarray, predicted: np.ndarray, rng: np.random.Generator | None = None) -> Any:
    scores = np.full((len(references), 3), 0.1, np.float32)
    scores[np.arange(len(references)), predicted] = 0.8 if rng is None else rng.uniform(0.5, 0.9, len(references))
    return sparse.csr_array(class_statistics(scores, references))


def class_scores(sums: Any) -> dict[str, Any]:
    return class_metrics(sums, LABELS)


def guesses(rng: np.random.Generator, references: np.ndarray, accuracy: float) -> np.ndarray:
    return np.where(rng.random(len(references)) < accuracy, references, rng.integers(0, 3, len(references)))


# ---- parity


def test_an_interval_is_that_of_scipy() -> None:
    rng = np.random.default_rng(1)
    before = rng.exponential(1.0, 800)
    after = before * 0.8 + rng.exponential(0.3, 800)
    found = paired_intervals(mean_metrics, mean_statistics(before), mean_statistics(after))["mean"]
    expected = scipy.stats.bootstrap(
        (before, after),
        lambda old, new, axis: new.mean(axis) - old.mean(axis),
        paired=True,
        method="BCa",
        n_resamples=10_000,
        rng=np.random.default_rng(2),
    )
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.04 * width)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.04 * width)
    assert found.error == pytest.approx(expected.standard_error, rel=0.03)


def test_a_metric_of_the_whole_set_is_that_of_scipy() -> None:
    rng = np.random.default_rng(3)
    references = rng.choice(3, 400, p=[0.7, 0.2, 0.1])
    old, new = (guesses(rng, references, accuracy) for accuracy in (0.5, 0.7))

    def macro_f1(rows: Any) -> float:
        chosen = rows.astype(int)
        return float(
            class_scores(of_classes(references[chosen], new[chosen]).sum(0))["f1_macro"]
            - class_scores(of_classes(references[chosen], old[chosen]).sum(0))["f1_macro"]
        )

    expected = scipy.stats.bootstrap(
        (np.arange(400),), macro_f1, vectorized=False, method="BCa", n_resamples=2000, rng=np.random.default_rng(4)
    )
    found = paired_intervals(class_scores, of_classes(references, old), of_classes(references, new))["f1_macro"]
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval), abs=0.08 * width)


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (5, 0), (6, 0), (10, 3), (40, 41), (200, 140)])
def test_the_exact_test_is_that_of_statsmodels(fixed: int, broken: int) -> None:
    assert exact_mcnemar(fixed, broken) == pytest.approx(mcnemar([[9, fixed], [broken, 9]], exact=True).pvalue)


def test_rows_in_cells_and_one_by_one_give_the_same() -> None:
    rng = np.random.default_rng(5)
    references = rng.integers(0, 3, 2_000)
    old, new = (guesses(rng, references, accuracy) for accuracy in (0.6, 0.65))
    in_cells = paired_intervals(class_scores, of_classes(references, old), of_classes(references, new), resamples=MANY)
    # With likelihoods that differ from row to row, log loss needs the rows themselves; the counts do not.
    whole = paired_intervals(class_scores, of_classes(references, old, rng), of_classes(references, new, rng), resamples=MANY)
    assert list(in_cells) == list(whole) == list(class_scores(of_classes(references, old).sum(0)))
    for name in whole.keys() - {"log_loss", "calibration_error"}:
        assert whole[name] == in_cells[name]
    # The same counts as a metric that nothing can be told of but row by row.
    jitter = mean_statistics((old == references) + 0.0), mean_statistics((new == references) + 1e-9 * rng.random(2_000))
    row_by_row = paired_intervals(mean_metrics, *jitter, resamples=MANY)["mean"]
    assert (row_by_row.low, row_by_row.high) == pytest.approx(
        (in_cells["accuracy"].low, in_cells["accuracy"].high), abs=0.1 * in_cells["accuracy"].error
    )


def test_several_comparisons_at_once_have_wider_intervals() -> None:
    rng = np.random.default_rng(11)
    pair = [mean_statistics(rng.normal(size=400)) for _ in range(2)]
    alone, among = (paired_intervals(mean_metrics, *pair, comparisons=count)["mean"] for count in (1, 5))
    assert (alone.low, alone.high, alone.error) == (among.low, among.high, among.error)
    assert alone.ends == (alone.low, alone.high)
    # Bonferroni: each at 99 % instead of 95 %.
    width = (among.ends[1] - among.ends[0]) / (among.high - among.low)
    assert width == pytest.approx(scipy.stats.norm.ppf(0.995) / scipy.stats.norm.ppf(0.975), rel=0.04)
    assert among.detectable == pytest.approx(among.error * (scipy.stats.norm.ppf(0.995) + scipy.stats.norm.ppf(0.8)))
    assert judge(Interval(0.01, 0.2, 0.05, 5, (-0.01, 0.22)), lower_is_better=False, changed=50) == "no evidence"
    assert judge(Interval(0.02, 0.2, 0.05, 5, (0.01, 0.22)), lower_is_better=False, changed=50, p_value=0.02) == "no evidence"
    assert judge(Interval(0.02, 0.2, 0.05, 5, (0.01, 0.22)), lower_is_better=False, changed=50, p_value=0.009) == "improved"


def test_rows_needed_are_those_that_theory_asks_for() -> None:
    # A tenth of the rows changes, either way as often: a variance of 0.1 per row.
    rows, margin = 500, 0.02
    detectable = Interval(0, 0, math.sqrt(0.1 / rows)).detectable
    wanted = 0.1 * ((scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)) / margin) ** 2
    assert rows_needed(rows, detectable, margin) == math.ceil(wanted)


def test_it_is_the_same_again_and_another_seed_draws_others() -> None:
    rng = np.random.default_rng(6)
    before, after = (mean_statistics(rng.normal(size=100)) for _ in range(2))
    first, again, other = (paired_intervals(mean_metrics, before, after, seed=seed, resamples=QUICK) for seed in (0, 0, 1))
    assert first == again
    assert first != other


# ---- simulation


def accuracy_truth(rng: np.random.Generator, rows: int) -> tuple[Any, Any]:
    hard = rng.random(rows)
    return tuple(accuracy_statistics(hard + rng.normal(0, 0.3, rows) < 0.6) for _ in range(2))


def skewed_truth(rng: np.random.Generator, rows: int) -> tuple[Any, Any]:
    size = rng.lognormal(3, 1, rows).round() + 1
    return tuple(
        sparse.csr_array(np.stack([size * (common + rng.lognormal(0, 0.8, rows)), size, 4 * size], 1))
        for common in [rng.lognormal(0, 0.5, rows)] * 2
    )


def skewed_gain(rng: np.random.Generator, rows: int) -> tuple[Any, Any]:
    size = rng.lognormal(3, 1, rows).round() + 1
    nats = size * rng.lognormal(0, 0.8, rows)
    gained = nats * np.where(rng.random(rows) < 0.1, 0.3, 1)
    return tuple(sparse.csr_array(np.stack([values, size, 4 * size], 1)) for values in (nats, gained))


def imbalanced_truth(rng: np.random.Generator, rows: int) -> tuple[Any, Any]:
    references = rng.choice(3, rows, p=[0.85, 0.1, 0.05])
    return tuple(of_classes(references, guesses(rng, references, 0.6)) for _ in range(2))


def loss_metrics(sums: Any) -> dict[str, Any]:
    return causal_metrics(*np.moveaxis(sums, -1, 0))


@pytest.mark.parametrize(
    ("draw", "metrics", "name", "rows", "truth"),
    [
        (accuracy_truth, mean_metrics, "mean", 50, 0),
        (accuracy_truth, mean_metrics, "mean", 400, 0),
        (imbalanced_truth, class_scores, "f1_macro", 150, 0),
        (imbalanced_truth, class_scores, "f1_weighted", 150, 0),
        (skewed_truth, loss_metrics, "bits_per_byte", 100, 0),
        # A tenth of the rows cost 0.7 less of what they cost, which is exp(0.8² / 2) nats per token in the mean.
        (skewed_gain, loss_metrics, "loss", 400, -0.1 * 0.7 * math.exp(0.32)),
    ],
)
def test_the_true_difference_is_outside_at_the_nominal_rate_alone(
    draw: Callable[..., Any], metrics: Callable[..., Any], name: str, rows: int, truth: float
) -> None:
    rng = np.random.default_rng(7)
    outside = 0
    for _ in range(SIMULATIONS):
        interval = paired_intervals(metrics, *draw(rng, rows), resamples=QUICK, seed=int(rng.integers(1 << 30)))[name]
        outside += not interval.low <= truth <= interval.high
    assert outside / SIMULATIONS <= NOMINAL[1]
    assert outside / SIMULATIONS >= 0.005, "so wide that they say nothing"


def test_power_on_a_known_gain_is_that_of_theory() -> None:
    # 20 % of the rows are fixed and 10 % broken: a difference of 0.1 with a variance of 0.3 - 0.01 per row.
    rng, rows = np.random.default_rng(8), 250
    error = math.sqrt(0.29 / rows)
    theory = scipy.stats.norm.sf(scipy.stats.norm.ppf(0.975) - 0.1 / error)
    found, detectable = 0, []
    for _ in range(SIMULATIONS):
        kind = rng.choice(3, rows, p=[0.2, 0.1, 0.7])
        pair = accuracy_statistics(kind == 1), accuracy_statistics(kind == 0)
        interval = paired_intervals(mean_metrics, *pair, resamples=QUICK, seed=int(rng.integers(1 << 30)))["mean"]
        p_value = exact_mcnemar(int((kind == 0).sum()), int((kind == 1).sum()))
        found += judge(interval, lower_is_better=False, changed=int((kind < 2).sum()), p_value=p_value) == "improved"
        detectable.append(interval.detectable)
    # The exact test costs a little.
    assert theory - 0.08 < found / SIMULATIONS < theory + 0.05
    assert np.mean(detectable) == pytest.approx(2.8 * error, rel=0.03)


# ---- borders


def test_two_equal_models_have_no_difference() -> None:
    rows = mean_statistics(np.arange(20.0))
    assert paired_intervals(mean_metrics, rows, rows, resamples=QUICK)["mean"] == Interval(0, 0, 0)
    assert paired_intervals(mean_metrics, rows[:1], rows[:1]) == {}


def test_a_metric_of_rows_that_few_resamples_have_is_told() -> None:
    # One question of thirty has no answer: a third of the resamples is without it.
    rows = np.ones((30, 8))
    rows[:, [5, 6]] = 0
    rows[0, 2:5], rows[0, 5:7] = 0, 1
    after = rows * [0, 0, 1, 0, 0, 0, 0, 1]
    found = paired_intervals(squad_metrics, sparse.csr_array(rows), sparse.csr_array(after), resamples=QUICK)
    assert (found["f1"].low, found["f1"].high) == (-1, -1)
    assert found["f1_no_answer"].low == -1
    assert found["f1_no_answer"].high == 0


def test_many_classes_are_resampled_as_few_are() -> None:
    rng = np.random.default_rng(10)
    references = rng.integers(0, 3, 300)
    pair = [guesses(rng, references, accuracy) for accuracy in (0.5, 0.8)]
    few = paired_intervals(class_scores, *(of_classes(references, predicted, rng) for predicted in pair), resamples=QUICK)
    rng = np.random.default_rng(10)
    wide = []
    for predicted in pair:
        scores = np.full((300, 200), 0.001, np.float32)
        scores[np.arange(300), predicted] = 0.8 + 0.1 * rng.random(300)
        wide.append(sparse.csr_array(class_statistics(scores, references)))
    many = paired_intervals(lambda sums: class_metrics(sums, [str(n) for n in range(200)]), *wide, resamples=QUICK)
    assert len(many) == 6 + 3 * 200
    assert many["accuracy"].low == pytest.approx(few["accuracy"].low, abs=0.3 * few["accuracy"].error)
    assert (many["f1/7"].low, many["f1/7"].high) == (0, 0)
    assert many["log_loss"].high < 0


def test_numbers_of_any_size_are_resampled() -> None:
    rng = np.random.default_rng(9)
    references = rng.normal(1e6, 1, 60)
    statistics = [sparse.csr_array(regression_statistics(references + rng.normal(0, error, 60), references)) for error in (2, 1)]
    found = paired_intervals(regression_metrics, *statistics, resamples=QUICK)
    assert found["mae"].high < 0
    assert all(math.isfinite(interval.low) and interval.low <= interval.high for interval in found.values())


@pytest.mark.parametrize(
    ("interval", "settings", "word"),
    [
        (Interval(0.1, 0.2, 0.03), {}, "improved"),
        (Interval(0.1, 0.2, 0.03), {"lower_is_better": True}, "regressed"),
        (Interval(-0.2, -0.1, 0.03), {}, "regressed"),
        (Interval(-0.2, -0.1, 0.03), {"lower_is_better": True}, "improved"),
        (Interval(-0.1, 0.2, 0.03), {}, "no evidence"),
        (Interval(0.0, 0.2, 0.03), {}, "no evidence"),
        (Interval(0.1, 0.2, 0.03), {"changed": 5}, "no evidence"),
        (Interval(0.1, 0.2, 0.03), {"p_value": 0.06}, "no evidence"),
        (Interval(0.1, 0.2, 0.03), {"p_value": 0.04}, "improved"),
        (None, {}, "no evidence"),
    ],
)
def test_the_verdict_is_one_of_three_words(interval: Interval | None, settings: dict[str, Any], word: str) -> None:
    assert judge(interval, **{"lower_is_better": False, "changed": 50, **settings}) == word
