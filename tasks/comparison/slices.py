"""Slices of the test rows: by class, by length, and by the columns that the config names; and how two models differ on each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.data.arrays import as_array
from tasks.data.columns import SLICE
from tasks.kinds.kind import Array, Kind, Metrics
from tasks.significance import Statistics, paired_intervals

if TYPE_CHECKING:
    import datasets

LEAST_ROWS = 10
"""Rows from which a slice is looked at."""
MOST_VALUES = 50
"""Values of a column that are looked at, the most frequent ones."""
MOST_INTERVALS = 40
"""Slices whose intervals are computed: those that lost most, for their size."""
_QUARTERS = ("shortest quarter", "second quarter", "third quarter", "longest quarter")
_QUARTERS_OF_NUMBERS = ("lowest quarter", "second quarter", "third quarter", "highest quarter")
_FEW_NUMBERS = 12


@dataclass(frozen=True)
class Slice:
    """Some of the test rows."""

    by: str
    """`class`, `length` or a column's name."""
    value: str
    """What these rows have in common."""
    detail: str
    """What `value` stands for, where it does not say so itself."""
    rows: Array
    """Their positions."""

    @property
    def name(self) -> str:
        """Its name in the config, as in `accuracy@class=sport`."""
        return f"{self.by}={self.value}"


def slices_of(kind: Kind, rows: "datasets.Dataset") -> list[Slice]:
    """Return the slices of the test rows that have rows enough."""
    found = [*_by_class(kind, rows), *_by_length(kind, rows)]
    for role in rows.column_names:
        if role.startswith(SLICE):
            found += _by_values(role.removeprefix(SLICE), np.array(rows[role][:], dtype=object))
    return [one for one in found if len(one.rows) >= LEAST_ROWS]


def contrast_slices(
    kind: Kind, slices: Sequence[Slice], statistics: tuple[Statistics, Statistics], scores: tuple[Array, Array]
) -> list[dict[str, Any]]:
    """Return how two models differ on each slice by the primary metric, as JSON; those that lost most beyond doubt come first.

    Args:
        kind: The kind.
        slices: The slices.
        statistics: Sufficient statistics of all rows, before and after.
        scores: The rows' scores, before and after.

    Returns:
        list: per slice `by`, `value`, `detail`, `rows`, the metric `before` and `after`, their `difference`, its ends `low` and
        `high`, corrected for the number of slices (None where they were not computed), `detectable`, and the rows `fixed` and
        `broken`.
    """
    sign = -1.0 if kind.primary_metric in kind.lower_is_better else 1.0
    metrics, statistics = _simplest(kind, statistics, scores)
    told: list[dict[str, Any]] = []
    for one in slices:
        before, after = (_value(metrics, part[one.rows]) for part in statistics)
        old, new = (part[one.rows] for part in scores)
        counts = {"rows": len(one.rows), "fixed": int((new > old).sum()), "broken": int((new < old).sum())}
        values = {"before": before, "after": after, "difference": after - before}
        unknown = {"low": None, "high": None, "detectable": None}
        told.append({"by": one.by, "value": one.value, "detail": one.detail, **counts, **values, **unknown})
    lost_most = sorted(range(len(told)), key=lambda place: sign * told[place]["difference"] * told[place]["rows"] ** 0.5)
    for place in lost_most[:MOST_INTERVALS]:
        parts = (part[slices[place].rows] for part in statistics)
        found = paired_intervals(metrics, *parts, comparisons=len(slices))["metric"]
        told[place] |= {"low": found.ends[0], "high": found.ends[1], "detectable": found.detectable}
    return sorted(told, key=lambda entry: _worst_first(entry, sign))


def _worst_first(entry: Mapping[str, Any], sign: float) -> tuple[bool, float, float]:
    """Order by the better end of the interval, so that a few rows that chance moved do not come before what is beyond doubt."""
    best = entry["high"] if sign > 0 else entry["low"]
    return best is None, 0.0 if best is None else sign * best, sign * entry["difference"]


def _simplest(
    kind: Kind, statistics: tuple[Statistics, Statistics], scores: tuple[Array, Array]
) -> tuple[Callable[[Array], Metrics], tuple[Statistics, Statistics]]:
    """Return the primary metric as a function of the least statistics: of the scores alone, if it is their mean."""
    from scipy import sparse

    name = kind.primary_metric

    def metrics(sums: Array) -> Metrics:
        return {"metric": kind.metrics(sums)[name]}

    def mean(sums: Array) -> Metrics:
        return {"metric": sums[..., 1] / sums[..., 0]}

    pairs = list(zip(statistics, scores, strict=True))
    if all(abs(_value(metrics, part) - float(score.mean())) < 1e-12 for part, score in pairs):
        old, new = (sparse.csr_array(np.stack([np.ones(len(score)), score], 1)) for score in scores)
        return mean, (old, new)
    return metrics, statistics


def _value(metrics: Callable[[Array], Metrics], statistics: Statistics) -> float:
    return float(metrics(np.asarray(statistics.sum(0)).ravel())["metric"])


def _by_class(kind: Kind, rows: "datasets.Dataset") -> Iterator[Slice]:
    """Yield the rows of each class, or with each label."""
    import datasets

    for role, feature in rows.features.items():
        inner = getattr(feature, "feature", feature)
        if not isinstance(inner, datasets.ClassLabel):
            continue
        if inner is feature:
            numbers = as_array(rows, role)
            yield from (Slice("class", label, "", np.flatnonzero(numbers == n)) for n, label in enumerate(kind.labels))
        else:
            sets = rows[role][:]
            for n, label in enumerate(kind.labels):
                yield Slice("class", label, "", np.flatnonzero([n in chosen for chosen in sets]))


def _by_length(kind: Kind, rows: "datasets.Dataset") -> Iterator[Slice]:
    """Yield the quarters of the rows by the characters of their input texts."""
    texts = [column.role for column in kind.columns() if column.is_input and column.role in rows.column_names]
    lengths = np.zeros(len(rows), np.int64)
    start = 0
    for batch in rows.select_columns(texts).iter(1_000):
        for values in batch.values():
            lengths[start : start + len(values)] += [len(value) for value in values]
        start += len(next(iter(batch.values())))
    yield from _quarters("length", lengths, _QUARTERS, "characters")


def _by_values(column: str, values: Array) -> list[Slice]:
    """Return the rows of each value of a column; of a column of many numbers, its quarters."""
    unique, numbers, counts = np.unique(values.astype(str), return_inverse=True, return_counts=True)
    if len(unique) > _FEW_NUMBERS and (found := _as_numbers(unique)) is not None:
        return list(_quarters(column, found[numbers], _QUARTERS_OF_NUMBERS, ""))
    frequent = np.sort(np.argsort(-counts, kind="stable")[:MOST_VALUES])
    return [Slice(column, str(unique[n]) or "(empty)", "", np.flatnonzero(numbers == n)) for n in frequent]


def _as_numbers(values: Array) -> Array | None:
    """Return texts as numbers, an empty one as none; None if one is no number."""
    try:
        found: Array = np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return None
    return found


def _quarters(by: str, values: Array, names: Sequence[str], unit: str) -> Iterator[Slice]:
    """Yield the quarters of rows by a number; equal numbers stay together, so that a quarter may be larger or missing."""
    known = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    if not len(known) or known.min() == known.max():
        return
    edges = np.quantile(known, [0.25, 0.5, 0.75])
    quarter = np.searchsorted(edges, values, side="left")
    for number, name in enumerate(names):
        inside = np.flatnonzero((quarter == number) & ~np.isnan(values.astype(float)))
        if len(inside):
            low, high = values[inside].min(), values[inside].max()
            yield Slice(by, name, f"{low:,.6g} to {high:,.6g} {unit}".rstrip(), inside)
