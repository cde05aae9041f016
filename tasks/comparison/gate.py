"""The gate: whether a fine-tuned model may become the champion. Pure functions over what a comparison found."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.comparison.analysis import alone, in_words
from tasks.comparison.slices import LEAST_ROWS, Slice
from tasks.config import GateSettings
from tasks.errors import ConfigError
from tasks.kinds.kind import Kind
from tasks.parsing import did_you_mean
from tasks.significance import Statistics, paired_intervals, rows_needed
from tasks.text import one_line

_BY_ITSELF = ("class", "length")


@dataclass(frozen=True)
class Decision:
    """Whether a model passes, and why, a line for each thing that was asked for."""

    passes: bool
    reasons: list[str]


def comparisons(kind: Kind, gate: GateSettings) -> int:
    """Return the number of metrics that are judged at once: those that the gate names, and the primary one."""
    return len({kind.primary_metric, *gate.metrics})


def split_name(name: str, columns: Collection[str]) -> tuple[str, str]:
    """Return the metric of a name and, of `METRIC@COLUMN=VALUE`, the slice; classes and columns may hold these signs too."""
    for place in (place for place, sign in enumerate(name) if sign == "@"):
        part = name[place + 1 :]
        if any(part.startswith(f"{column}=") and part != f"{column}=" for column in (*_BY_ITSELF, *columns)):
            return name[:place], part
    return name, ""


def check_names(kind: Kind, gate: GateSettings, columns: Collection[str]) -> None:
    """Check what metrics and slices the gate names, before there is any data.

    Args:
        kind: The kind.
        gate: The gate.
        columns: Those of `data.slice_columns`.

    Raises:
        ConfigError: a metric that the kind does not have, a column that is not in `data.slice_columns`, or none with a value.
    """
    for name in gate.metrics:
        base = split_name(name, columns)[0].partition("/")[0]
        if "@" in base or not base:
            known = ", ".join(repr(one) for one in (*_BY_ITSELF, *columns))
            raise ConfigError(f"The gate names {name!r}; write METRIC@COLUMN=VALUE with a column of data.slice_columns: {known}.")
        if base not in (names := sorted(kind.metric_names - kind.neutral)):
            raise ConfigError(f"The gate names the metric {base!r}{did_you_mean(base, names)}.")


def check_metrics(gate: GateSettings, metrics: Collection[str], columns: Collection[str]) -> None:
    """Check that there are the metrics that the gate names, once it is known which classes there are.

    Raises:
        ConfigError: there is no such metric.
    """
    for name in gate.metrics:
        metric, _ = split_name(name, columns)
        if metric not in metrics:
            raise ConfigError(f"The gate names the metric {metric!r}{did_you_mean(metric, list(metrics))}.")


def measure(
    kind: Kind,
    gate: GateSettings,
    slices: Sequence[Slice],
    before: Statistics,
    after: Statistics,
    columns: Collection[str] = (),
) -> dict[str, dict[str, Any]]:
    """Return of each metric that the gate names, as JSON, `difference`, its ends `low` and `high`, `detectable` and `rows`.

    The ends are corrected for the number of metrics. A slice without rows enough has `rows` alone.
    """
    by_name = {one.name: one.rows for one in slices}
    found: dict[str, dict[str, Any]] = {}
    for name in gate.metrics:
        metric, part = split_name(name, columns)
        rows = by_name.get(part, np.array([], np.int64)) if part else np.arange(before.shape[0])
        found[name] = {"rows": len(rows)}
        if len(rows) < 2:
            continue
        intervals = paired_intervals(
            alone(kind, metric),
            before[rows],
            after[rows],
            comparisons=comparisons(kind, gate),
        )
        values = [float(kind.metrics(np.asarray(part[rows].sum(0)).ravel())[metric]) for part in (before, after)]
        low, high = intervals[metric].ends
        found[name] |= {
            "difference": values[1] - values[0],
            "low": low,
            "high": high,
            "detectable": intervals[metric].detectable,
        }
    return found


def decide(kind: Kind, gate: GateSettings, untouched: Mapping[str, Any], champion: Mapping[str, Any] | None) -> Decision:
    """Decide by the analyses of the comparisons with the untouched model and, if there is one, with the champion.

    Args:
        kind: The kind.
        gate: What is asked for.
        untouched: What `comparison.analyse` returned for the untouched model before.
        champion: The same for the champion before.
    """
    reference = untouched if champion is None else champion
    against = "the untouched model" if champion is None else "the champion"
    found = [_primary(kind, untouched, "the untouched model")]
    if champion is not None:
        found.insert(0, _primary(kind, champion, "the champion"))
    measured = reference["gate"]
    found += [_within(kind, name, measured[name], margin, against) for name, margin in gate.margins.items()]
    found += [_improved(kind, name, measured[name], against) for name in gate.must_improve]
    if gate.slice_margin is not None:
        found += _slices(kind, reference["slices"], gate.slice_margin, against)
    return Decision(all(passes for passes, _ in found), [reason for _, reason in found])


_Finding = tuple[bool, str]


def _primary(kind: Kind, analysis: Mapping[str, Any], against: str) -> _Finding:
    """Say whether the model is not worse, beyond doubt, by the primary metric."""
    word, name = analysis["verdict"]["word"], kind.primary_metric
    entry = next(entry for entry in analysis["metrics"] if entry["name"] == name)
    told = {"improved": "is better than", "no evidence": "shows no difference from", "regressed": "is worse than"}[word]
    return word != "regressed", f"{name}: {told} {against} ({_change(kind, name, entry)})."


def _within(kind: Kind, name: str, found: Mapping[str, Any], margin: float, against: str) -> _Finding:
    if "low" not in found:
        return False, _too_few(name, found)
    worst, best = _oriented(kind, name, found)
    told = f"({_change(kind, name, found)}; margin {_size(kind, name, margin)})"
    if worst >= -margin:
        return True, f"{name}: no worse than {against} by more than its margin {told}."
    if best < -margin:
        return False, f"{name}: worse than {against} by more than its margin {told}."
    needed = rows_needed(found["rows"], found["detectable"], margin)
    more = ""
    if needed > found["rows"]:
        more = f"; {found['rows']:,} test rows are too few for that margin, about {needed:,} would be needed"
    return False, f"{name}: not shown to be no worse than {against} by more than its margin {told}{more}."


def _improved(kind: Kind, name: str, found: Mapping[str, Any], against: str) -> _Finding:
    if "low" not in found:
        return False, _too_few(name, found)
    passes = _oriented(kind, name, found)[0] > 0
    return passes, f"{name}: {'' if passes else 'not '}significantly better than {against} ({_change(kind, name, found)})."


def _slices(kind: Kind, slices: Sequence[Mapping[str, Any]], margin: float, against: str) -> list[_Finding]:
    """Say which slices are worse than the margin allows beyond doubt; few have the rows to show that they are not."""
    name = kind.primary_metric
    failed = []
    for entry in slices:
        if entry["low"] is not None and _oriented(kind, name, entry)[1] < -margin:
            where = f"{name}@{one_line(entry['by'], 50)}={one_line(entry['value'], 50)}"
            told = f"({_change(kind, name, entry)}; margin {_size(kind, name, margin)})"
            failed.append((False, f"{where}: worse than {against} by more than the margin of slices {told}."))
    kept = (
        f"{name}: none of {len(slices):,} slices is worse than {against} by more than {_size(kind, name, margin)} beyond doubt."
    )
    return failed or [(True, kept)]


def _oriented(kind: Kind, name: str, found: Mapping[str, Any]) -> tuple[float, float]:
    """Return the worse and the better end of a difference, more being better."""
    lower = name.partition("@")[0] in kind.lower_is_better
    return (-found["high"], -found["low"]) if lower else (found["low"], found["high"])


def _change(kind: Kind, name: str, found: Mapping[str, Any]) -> str:
    told = _told(kind, name, found["difference"])
    if found["low"] is None:
        return told
    low = in_words(kind, name.partition("@")[0], found["low"], unit=False)
    return f"{told}, interval {low} to {_told(kind, name, found['high'])}"


def _told(kind: Kind, name: str, value: float) -> str:
    return in_words(kind, name.partition("@")[0], value)


def _size(kind: Kind, name: str, margin: float) -> str:
    return _told(kind, name, margin).removeprefix("+")


def _too_few(name: str, found: Mapping[str, Any]) -> str:
    return f"{name}: {found['rows']:,} test rows, and it takes {LEAST_ROWS} to say anything."
