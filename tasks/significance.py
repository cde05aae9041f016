"""Whether a difference between two models on the same rows is more than chance: intervals, an exact test, and the verdict.

Every metric is a function of column sums over rows, so it is recomputed for each resample of the rows, never averaged over them;
both models are resampled together.
Source: Efron 1987, Better Bootstrap Confidence Intervals (bias-corrected and accelerated); Hesterberg 2015, What Teachers Should
Know About the Bootstrap, section 3.2, for small samples; Koehn 2004, Statistical Significance Tests for Machine Translation
Evaluation, for pairs; McNemar 1947 and Edwards 1948, exact.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.kinds.kind import Array, Metrics
from tasks.records import Word

RESAMPLES = 10_000
CONFIDENCE = 0.95
LEAST_CHANGED = 6
"""Rows that must score differently before anything is said to have changed: of five that all went one way, chance alone makes
one way of the two with a probability of 2 / 2**5 = 0.0625."""
# Where rows fall into few cells, their numbers are drawn at once; per cell that costs as much as so many rows.
_CELL_COST = 8
_NUMBERS_AT_ONCE = 4_000_000
_DENSE_COLUMNS = 256
_POWER = 0.8
"""Probability with which a difference of `Interval.detectable` is found."""

Statistics = Any
"""Sufficient statistics per row, a sparse array of shape (rows, k)."""


@dataclass(frozen=True)
class Interval:
    """What is known of a difference, after less before."""

    low: float
    high: float
    error: float
    """Standard error."""
    comparisons: int = 1
    """Number of comparisons that are made at once."""
    corrected: tuple[float, float] | None = None
    """Ends that all of so many comparisons' intervals hold together at `CONFIDENCE`; None if they are `low` and `high`."""

    @property
    def ends(self) -> tuple[float, float]:
        """The ends by which to judge."""
        return self.corrected or (self.low, self.high)

    @property
    def detectable(self) -> float:
        """The true difference that rows like these would show four times in five, in so many comparisons."""
        from scipy.special import ndtri

        return float((ndtri((1 + confidence_of_one(self.comparisons)) / 2) + ndtri(_POWER)) * self.error)


def confidence_of_one(comparisons: int) -> float:
    """Return the confidence of each of so many intervals that together hold at `CONFIDENCE`: Bonferroni's.

    Source: Dunn 1961, Multiple Comparisons Among Means.
    """
    return 1 - (1 - CONFIDENCE) / comparisons


def rows_needed(rows: int, detectable: float, margin: float) -> int:
    """Return how many rows would show four times in five that an equal model is no worse by `margin`.

    Args:
        rows: Rows of the comparison.
        detectable: See `Interval.detectable`.
        margin: In the metric's unit.
    """
    return math.ceil(rows * (detectable / margin) ** 2)


def paired_intervals(
    metrics: Callable[[Array], Metrics],
    before: Statistics,
    after: Statistics,
    *,
    comparisons: int = 1,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return the interval of each metric's difference, at `CONFIDENCE`.

    Args:
        metrics: Column sums, shape (…, k), to metrics.
        before: Statistics of the rows for one model.
        after: Those of the same rows, in the same order, for the other.
        comparisons: Number of comparisons that `Interval.corrected` is for.
        resamples: Number of resamples.
        seed: What is drawn hangs on it.

    Returns:
        dict: metric's name to its interval; empty for fewer than two rows.
    """
    from scipy import sparse

    rows, columns = before.shape
    if rows < 2:
        return {}
    joint = sparse.hstack([before, after]).tocsr()
    found: dict[str, Interval] = {}
    for use, wanted in _parts(metrics, joint, columns):
        drawn = _Resampling(metrics, joint, use, wanted, columns)
        found |= drawn.intervals(resamples, np.random.default_rng(seed), comparisons)
    return {name: found[name] for name in metrics(np.asarray(before.sum(0)).ravel())}


def exact_mcnemar(fixed: int, broken: int) -> float:
    """Return the two-sided p-value of so many rows fixed and broken, if either were as likely."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(fixed, broken), fixed + broken, 0.5)))


def judge(interval: Interval | None, *, lower_is_better: bool, changed: int, p_value: float | None = None) -> Word:
    """Say what an interval shows, corrected for the number of comparisons.

    Args:
        interval: Of the metric that decides; None if there is none.
        lower_is_better: Whether less of it is better.
        changed: Rows that score differently.
        p_value: Of the exact test, where there is one; it must agree.
    """
    if interval is None or changed < LEAST_CHANGED:
        return "no evidence"
    if p_value is not None and p_value >= 1 - confidence_of_one(interval.comparisons):
        return "no evidence"
    low, high = interval.ends
    if low > 0 or high < 0:
        return "improved" if (low > 0) is not lower_is_better else "regressed"
    return "no evidence"


def _parts(metrics: Callable[[Array], Metrics], joint: Statistics, columns: int) -> Iterator[tuple[Array, list[str]]]:
    """Yield columns of the joint statistics with the metrics that depend on no others: first those that count, then all.

    Counts take few values, so that rows fall into few cells.
    """
    entries = joint.tocsc()
    whole = entries.data == np.rint(entries.data)
    fractional = np.flatnonzero(np.diff(np.concatenate([[0], np.cumsum(~whole)])[entries.indptr])) % columns
    fractions = np.concatenate([fractional, fractional + columns])
    sums = np.asarray(joint.sum(0)).ravel()
    moved = sums.copy()
    moved[fractions] += 1.0 + np.abs(sums).max()
    told, other = (metrics(row.reshape(2, columns)) for row in (sums, moved))
    free = [name for name in told if np.array_equal(told[name], other[name])]
    if free:
        counted = np.ones(2 * columns, bool)
        counted[fractions] = False
        yield counted, free
    if rest := [name for name in told if name not in free]:
        yield np.ones(2 * columns, bool), rest


class _Resampling:
    """Rows, or the cells that they fall into, from which resamples are drawn.

    Args:
        metrics: Column sums to metrics.
        joint: Statistics of both models, shape (rows, 2 * columns).
        use: Which of these columns matter.
        wanted: Names of the metrics.
        columns: Columns of one model.
    """

    def __init__(
        self, metrics: Callable[[Array], Metrics], joint: Statistics, use: Array, wanted: list[str], columns: int
    ) -> None:
        from scipy import sparse

        self.metrics, self.wanted, self.columns = metrics, wanted, columns
        self.rows = joint.shape[0]
        used = joint @ sparse.diags_array(use.astype(np.float64))
        # Equal rows have equal products with any vector, and others almost surely another one.
        key = used @ np.random.default_rng(0).standard_normal(2 * columns)
        _, first, counts = np.unique(key, return_index=True, return_counts=True)
        self.in_cells = len(first) * _CELL_COST < self.rows
        self.counts = counts if self.in_cells else np.ones(self.rows, np.int64)
        chosen = used.tocsr()[first] if self.in_cells else used
        self.statistics = chosen.toarray() if chosen.shape[1] <= _DENSE_COLUMNS else chosen.tocsr()
        self.sums = self.counts @ self.statistics

    def intervals(self, resamples: int, rng: np.random.Generator, comparisons: int) -> dict[str, Interval]:
        observed, left_out = self._told(self.sums), self._left_out()
        size = max(1, min(resamples, _NUMBERS_AT_ONCE // len(self.counts)))
        parts = [
            self._told(self._drawn(rng, min(size, resamples - start)) @ self.statistics) for start in range(0, resamples, size)
        ]
        found = {}
        for name in self.wanted:
            samples = np.concatenate([np.atleast_1d(part[name]) for part in parts])
            known = observed[name], samples, left_out[name], self.counts
            corrected = _ends(*known, confidence_of_one(comparisons)) if comparisons > 1 else None
            found[name] = Interval(*_ends(*known, CONFIDENCE), float(samples.std()), comparisons, corrected)
        return found

    def _drawn(self, rng: np.random.Generator, size: int) -> Array:
        """Return how often each row, or a row of each cell, is in each of some resamples, shape (size, rows or cells)."""
        if self.in_cells:
            return rng.multinomial(self.rows, self.counts / self.rows, size).astype(np.float64)
        found = np.empty((size, self.rows))
        for times in found:
            # One by one, they stay in the processor's cache.
            times[:] = np.bincount(rng.integers(0, self.rows, self.rows, dtype=np.uint32), minlength=self.rows)
        return found

    def _left_out(self) -> Metrics:
        """Return the differences without one row, or one row of each cell."""
        size = max(1, _NUMBERS_AT_ONCE // (2 * self.columns))
        parts = []
        for start in range(0, len(self.counts), size):
            rows = self.statistics[start : start + size]
            parts.append(self._told(self.sums - (rows if isinstance(rows, np.ndarray) else rows.toarray())))
        return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in self.wanted}

    def _told(self, sums: Array) -> Metrics:
        """Return after less before of joint sums, shape (…, 2 * columns)."""
        shape = sums.shape[:-1]
        found, nothing = self.metrics(sums.reshape(*shape, 2, self.columns)), np.zeros((*shape, 2))
        # A metric that only some rows have is missing where none of a part's resamples has such a row.
        both = {name: found.get(name, nothing) for name in self.wanted}
        return {name: values[..., 1] - values[..., 0] for name, values in both.items()}


def _ends(observed: Array, samples: Array, left_out: Array, counts: Array, confidence: float) -> tuple[float, float]:
    """Return the ends of the percentile interval or the bias-corrected and accelerated one, whichever is further out.

    Either alone is too narrow where a few rows weigh much, one if differences are symmetric, the other if they are not.
    Both are made wider for small samples, as Student's t is.
    """
    from scipy.special import ndtr, ndtri, stdtrit

    rows = counts.sum()
    wide = float(stdtrit(rows - 1, (1 + confidence) / 2)) * np.sqrt(rows / (rows - 1))
    deviates = [np.array([-wide, wide])]
    below = ((samples < observed).mean() + (samples <= observed).mean()) / 2
    if 0 < below < 1:
        bias, lean = ndtri(below), counts @ left_out / rows - left_out
        scale = 6 * (counts @ lean**2) ** 1.5
        moved = bias + deviates[0]
        deviates.append(bias + moved / np.maximum(1e-9, 1 - (counts @ lean**3 / scale if scale else 0.0) * moved))
    found = np.quantile(samples, ndtr(deviates))
    return float(found[..., 0].min()), float(found[..., 1].max())
