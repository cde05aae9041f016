"""The step `compare`: the same test rows before and after, row by row, and where the difference comes from."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks.kinds.kind import Kind
from tasks.records import DatasetRef, Scores, Verdict
from tasks.steps import Run, step, write_json
from tasks.text import one_line

EXAMPLES = 20
"""Rows shown of each sort: fixed and broken."""
_PAIRS = 5
_SHOWN_CHARACTERS = 600


@step("compare", reads=("kind",))
def compare(run: Run, folder: Path, *, dataset: DatasetRef, before: Scores, after: Scores) -> Verdict:
    """Compare before and after. The artifact holds `analysis.json` and `rows.json`, see `analyse` and `examples`."""
    import datasets

    pairs = pair_rows(*(run.store.fetch(scores.key) / "predictions.parquet" for scores in (before, after)))
    rows = datasets.Dataset.load_from_disk(str(run.store.fetch(dataset.key) / "test"))
    analysis = analyse(run.kind, pairs, before.metrics, after.metrics)
    write_json(folder / "analysis.json", analysis)
    write_json(folder / "rows.json", {sort: examples(pairs, rows, sort) for sort in ("fixed", "broken")})
    return Verdict(
        difference={entry["name"]: entry["difference"] for entry in analysis["metrics"]},
        fixed=int(pairs["fixed"].sum()),
        broken=int(pairs["broken"].sum()),
    )


def pair_rows(before: Path, after: Path) -> pd.DataFrame:
    """Join two files of predictions row by row.

    Returns:
        DataFrame: per test row `id`, `label`, `before`, `after` (predicted labels, categorical), `label_before`, `label_after`
        (probabilities of the right label), `sure_before`, `sure_after` (of the predicted label), `fixed`, `broken`.

    Raises:
        ValueError: the files do not hold the same rows in the same order.
    """
    old, new = pd.read_parquet(before), pd.read_parquet(after)
    if not (old["id"].equals(new["id"]) and old["label"].equals(new["label"])):
        raise ValueError(f"{before} and {after} hold different rows")
    pairs = old[["id", "label"]].assign(before=old["prediction"], after=new["prediction"])
    index = np.arange(len(pairs))
    for name, frame in (("before", old), ("after", new)):
        probabilities = np.stack(frame["probabilities"].to_list())
        pairs[f"label_{name}"] = probabilities[index, pairs["label"].cat.codes]
        pairs[f"sure_{name}"] = probabilities[index, pairs[name].cat.codes]
    was_right, is_right = (pairs[name].cat.codes == pairs["label"].cat.codes for name in ("before", "after"))
    return pairs.assign(fixed=~was_right & is_right, broken=was_right & ~is_right)


def analyse(kind: Kind, pairs: pd.DataFrame, before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    """Return what changed, as JSON.

    Returns:
        dict: `metrics` (per metric before, after, difference, relative change; None where before is 0), `rows` (counts of rows
        right before, right after, fixed, broken), `classes` (the same per class), `confusion` (matrices of counts; rows: labels),
        and the pairs of classes whose confusion fell most (`resolved`) and that are confused most after (`remaining`).
    """
    labels = [str(label) for label in pairs["label"].cat.categories]
    confusion = {name: _confusion(pairs, name) for name in ("before", "after")}
    return {
        "labels": labels,
        "metrics": [_change(kind, name, before[name], after[name]) for name in before],
        "rows": _counts(pairs),
        "classes": [
            {"label": label, **_counts(pairs[pairs["label"].cat.codes == number])} for number, label in enumerate(labels)
        ],
        "confusion": {name: matrix.tolist() for name, matrix in confusion.items()},
        "resolved": _top_pairs(labels, confusion, confusion["before"] - confusion["after"]),
        "remaining": _top_pairs(labels, confusion, confusion["after"]),
    }


def examples(pairs: pd.DataFrame, rows: Any, sort: str) -> list[dict[str, Any]]:
    """Return the `fixed` or `broken` rows in which the probability of the right label moved most, with their texts."""
    chosen = pairs[pairs[sort]]
    moved = (chosen["label_after"] - chosen["label_before"]).abs()
    chosen = chosen.loc[moved.sort_values(ascending=False, kind="stable").index[:EXAMPLES]]
    texts = rows.select(chosen.index.to_list())
    return [
        {
            "id": str(row["id"]),
            "texts": [one_line(text[name], _SHOWN_CHARACTERS) for name in ("text", "pair") if name in text],
            "label": str(row["label"]),
            **{name: str(row[name]) for name in ("before", "after")},
            **{name: float(row[name]) for name in ("sure_before", "sure_after")},
        }
        for (_, row), text in zip(chosen.iterrows(), texts, strict=True)
    ]


def _change(kind: Kind, name: str, before: float, after: float) -> dict[str, Any]:
    difference = after - before
    return {
        "name": name,
        "before": before,
        "after": after,
        "difference": difference,
        "relative": difference / abs(before) if before else None,
        "lower_is_better": name in kind.lower_is_better,
    }


def _counts(pairs: pd.DataFrame) -> dict[str, int]:
    right = {f"right_{name}": int((pairs[name].cat.codes == pairs["label"].cat.codes).sum()) for name in ("before", "after")}
    return {"rows": len(pairs), **right, "fixed": int(pairs["fixed"].sum()), "broken": int(pairs["broken"].sum())}


def _confusion(pairs: pd.DataFrame, name: str) -> "np.ndarray[Any, np.dtype[np.int64]]":
    classes = len(pairs["label"].cat.categories)
    cells = pairs["label"].cat.codes.astype(np.int64) * classes + pairs[name].cat.codes
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def _top_pairs(
    labels: list[str], confusion: "dict[str, np.ndarray[Any, np.dtype[np.int64]]]", weight: "np.ndarray[Any, np.dtype[np.int64]]"
) -> list[dict[str, Any]]:
    """Return the off-diagonal cells of the greatest positive weight: rows of a label taken for another."""
    weight = weight.copy()
    np.fill_diagonal(weight, 0)
    order = np.argsort(-weight, axis=None, kind="stable")[:_PAIRS]
    cells = [divmod(int(cell), len(labels)) for cell in order if weight.flat[cell] > 0]
    return [
        {
            "label": labels[row],
            "taken_for": labels[column],
            "before": int(confusion["before"][row, column]),
            "after": int(confusion["after"][row, column]),
        }
        for row, column in cells
    ]
