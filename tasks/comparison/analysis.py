"""What two models said of the same rows, row by row: what changed, the verdict, and the rows that show it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.kinds.kind import Array, Kind, Metrics
from tasks.significance import Interval, exact_mcnemar, judge
from tasks.text import one_line

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 20
"""Rows shown of each sort: fixed and broken."""
_SHOWN_CHARACTERS = 600


def read_predictions(before: Path, after: Path) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Read two files of predictions; both have `id`, `score` and the kind's own columns.

    Raises:
        ValueError: the files do not hold the same rows in the same order.
    """
    import pandas as pd

    old, new = pd.read_parquet(before), pd.read_parquet(after)
    if not old["id"].equals(new["id"]) or ("label" in old and not old["label"].equals(new["label"])):
        raise ValueError(f"{before} and {after} hold different rows")
    return old, new


def analyse(
    kind: Kind,
    before: "pd.DataFrame",
    after: "pd.DataFrame",
    metrics_before: dict[str, float],
    metrics_after: dict[str, float],
    intervals: Mapping[str, Interval],
) -> dict[str, Any]:
    """Return what changed, as JSON.

    Returns:
        dict: `metrics` (per metric before, after, difference, the ends of its interval, `low` and `high`, relative change; None
        where there is none), `rows` (counts: all, `fixed`, whose score rose, `broken`, whose score fell, and, where a row is
        right or wrong, those right before and after), `verdict` (see `verdict_of`), and what `Kind.analysis` says.
    """
    old, new = before["score"], after["score"]
    rows = {"rows": len(before), "fixed": int((new > old).sum()), "broken": int((new < old).sum())}
    if kind.right_or_wrong:
        rows |= {"right_before": int((old == 1).sum()), "right_after": int((new == 1).sum())}
    found = kind.analysis(before, after)
    metrics = [_change(kind, name, metrics_before[name], metrics_after[name], intervals.get(name)) for name in metrics_before]
    verdict = verdict_of(kind, rows, intervals.get(kind.primary_metric))
    return {
        "metrics": metrics,
        "rows": rows,
        "verdict": verdict,
        **found,
        "sources": [_balance(kind, rows), *found.get("sources", [])],
    }


def verdict_of(kind: Kind, rows: Mapping[str, int], interval: Interval | None) -> dict[str, Any]:
    """Return the verdict by the primary metric, as JSON.

    Returns:
        dict: `word`; `changed`, the rows whose score changed; `p_value` of the exact test, None where rows are not right or
        wrong; `detectable` and `comparisons`, see `Interval`, None and 1 where there is none.
    """
    changed = rows["fixed"] + rows["broken"]
    p_value = exact_mcnemar(rows["fixed"], rows["broken"]) if kind.right_or_wrong else None
    lower = kind.primary_metric in kind.lower_is_better
    return {
        "word": judge(interval, lower_is_better=lower, changed=changed, p_value=p_value),
        "changed": changed,
        "p_value": p_value,
        "detectable": interval.detectable if interval else None,
        "comparisons": interval.comparisons if interval else 1,
    }


def examples(kind: Kind, before: "pd.DataFrame", after: "pd.DataFrame", rows: Any, sort: str) -> list[dict[str, Any]]:
    """Return the rows of a sort, `fixed` or `broken`, that changed most, with their texts."""
    change = after["score"] - before["score"]
    chosen = change[change > 0] if sort == "fixed" else change[change < 0]
    order = chosen.abs().to_frame("score")
    if "fine_score" in before:
        order["fine"] = (after["fine_score"] - before["fine_score"]).abs().loc[chosen.index]
    positions = order.sort_values([str(name) for name in order], ascending=False, kind="stable").index[:EXAMPLES].to_list()
    texts = rows.select(positions)
    return [
        _example(kind, before.iloc[position], after.iloc[position], row) for position, row in zip(positions, texts, strict=True)
    ]


def _example(kind: Kind, before: Any, after: Any, row: dict[str, Any]) -> dict[str, Any]:
    inputs, expected = kind.shown_row(row)
    return {
        "id": str(before["id"]),
        "texts": [one_line(text, _SHOWN_CHARACTERS) for text in inputs],
        "expected": one_line(expected, _SHOWN_CHARACTERS),
        **{name: shown_answer(kind, entry) for name, entry in (("before", before.to_dict()), ("after", after.to_dict()))},
    }


def shown_answer(kind: Kind, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of `predictions.parquet` as the report has it: `text` and `score`."""
    return {"text": one_line(kind.shown_prediction(entry), _SHOWN_CHARACTERS), "score": float(entry["score"])}


def alone(kind: Kind, metric: str) -> Callable[[Array], Metrics]:
    """Return the function of sums that computes one of the kind's metrics."""
    return lambda sums: {metric: kind.metrics(sums)[metric]}


def in_words(kind: Kind, metric: str, difference: float, *, unit: bool = True) -> str:
    """Return a difference of a metric as a person reads it: of fractions of which more is better in points."""
    if metric in kind.unbounded or metric in kind.lower_is_better:
        return f"{difference:+.4f}"
    return f"{100 * difference:+.1f}{' points' if unit else ''}"


def _balance(kind: Kind, rows: dict[str, int]) -> str:
    net = rows["fixed"] - rows["broken"]
    if kind.right_or_wrong:
        return (
            f"Of {rows['rows']:,} test rows {rows['right_before']:,} were right before and {rows['right_after']:,} are right "
            f"after: {rows['fixed']:,} were fixed, {rows['broken']:,} broke, a net of {net:+,}."
        )
    same = rows["rows"] - rows["fixed"] - rows["broken"]
    return (
        f"Of {rows['rows']:,} test rows {rows['fixed']:,} score better after than before and {rows['broken']:,} worse, "
        f"a net of {net:+,}; {same:,} score the same."
    )


def _change(kind: Kind, name: str, before: float, after: float, interval: Interval | None) -> dict[str, Any]:
    difference = after - before
    return {
        "name": name,
        "before": before,
        "after": after,
        "difference": difference,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "relative": difference / abs(before) if before else None,
        "better": "neither" if name in kind.neutral else "lower" if name in kind.lower_is_better else "higher",
        "fraction": name not in kind.unbounded,
    }
