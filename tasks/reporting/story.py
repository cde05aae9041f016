"""What the report says, as plain data: pure functions from records and analyses to words and numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.kinds.kind import Kind
from tasks.records import SPLITS, Checkpoint, Scores
from tasks.reporting.charts import title


def headline(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that are not of one class."""
    return {name: value for name, value in metrics.items() if "/" not in name}


def charted(kind: Kind, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the headline metrics that are fractions, of which more is better."""
    return {name: value for name, value in headline(metrics).items() if name not in kind.lower_is_better}


def sentence(kind: Kind, before: Scores, after: Scores) -> str:
    """Return the run's outcome in one sentence: both scores and the difference, no judgement."""
    name = kind.primary_metric
    old, new = before.metrics[name], after.metrics[name]
    return (
        f"{title(name)} on {after.rows:,} test rows is {new:.3f} after fine-tuning and {old:.3f} before: "
        f"a difference of {100 * (new - old):+.1f} points."
    )


def head_note(scores: Scores) -> str:
    """Return what the reader must know of the untouched model's head."""
    if scores.head == "fresh":
        return (
            "The untouched model has no head for these classes: its head is freshly initialised with the run's seed, "
            "so the scores before are those of guessing."
        )
    return "The untouched model brings its own head for these classes; the scores before are those of the model as it came."


def sources(analysis: Mapping[str, Any]) -> list[str]:
    """Return where the difference comes from, in sentences."""
    rows = analysis["rows"]
    net = rows["fixed"] - rows["broken"]
    told = [
        f"Of {rows['rows']:,} test rows {rows['right_before']:,} were right before and {rows['right_after']:,} are right after: "
        f"{rows['fixed']:,} were fixed, {rows['broken']:,} broke, a net of {net:+,}."
    ]
    classes = sorted(analysis["classes"], key=lambda entry: entry["broken"] - entry["fixed"])
    if gains := [entry for entry in classes if entry["fixed"] > entry["broken"]][:3]:
        listed = ", ".join(f"“{entry['label']}” ({entry['fixed'] - entry['broken']:+,})" for entry in gains)
        told.append(f"The classes that gained most rows: {listed}.")
    if losses := [entry for entry in reversed(classes) if entry["fixed"] < entry["broken"]][:3]:
        listed = ", ".join(f"“{entry['label']}” ({entry['fixed'] - entry['broken']:+,})" for entry in losses)
        told.append(f"The classes that lost rows: {listed}.")
    for key, what in (("resolved", "The confusions that fell most"), ("remaining", "The most frequent confusions that are left")):
        if pairs := analysis[key]:
            listed = "; ".join(
                f"“{pair['label']}” taken for “{pair['taken_for']}” ({pair['before']:,} → {pair['after']:,})" for pair in pairs
            )
            told.append(f"{what}: {listed}.")
    return told


def class_table(analysis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per class: counts, and each per-class metric before and after."""
    metrics = {entry["name"]: entry for entry in analysis["metrics"]}
    return [
        {**entry, **{name: metrics[f"{name}/{entry['label']}"] for name in ("precision", "recall", "f1")}}
        for entry in analysis["classes"]
    ]


def findings(dataset: Mapping[str, Any], tokens: Mapping[str, Any], max_length: int) -> list[dict[str, Any]]:
    """Return the data checks as rows of `check`, `finding`, and `alarm` where a reader should look twice."""
    checks = dataset["checks"]
    shared = {pair: counts for pair, counts in checks["shared"].items() if counts["folded"]}
    truncated: dict[str, int] = {split: tokens[split]["truncated"] for split in SPLITS}
    balance = [count for count in checks["classes"]["train"] if count]
    dealt = {"drop": "dropped from train (or validation)", "report": "kept, as set", "refuse": "refused"}[checks["duplicates"]]
    return [
        {
            "check": "Rows shared by splits",
            "finding": "none"
            if not shared
            else "; ".join(
                f"{counts['folded']:,} of {pair.split('_')[0]} in {pair.split('_')[1]} ({counts['exact']:,} of them exactly)"
                for pair, counts in shared.items()
            )
            + f"; {dealt}",
            "alarm": bool(shared) and checks["duplicates"] == "report",
        },
        {
            "check": "Rows repeated within a split",
            "finding": _per_split(checks["repeated"]),
            "alarm": checks["repeated"]["test"] > 0,
        },
        {
            "check": "Texts with contradictory labels",
            "finding": f"{checks['contradictory']:,}",
            "alarm": checks["contradictory"] > 0,
        },
        {"check": "Empty texts, left out", "finding": _per_split(checks["empty"]), "alarm": any(checks["empty"].values())},
        {
            "check": f"Rows truncated to {max_length} tokens",
            "finding": _per_split(truncated),
            "alarm": sum(truncated.values()) > 0.05 * sum(tokens[split]["rows"] for split in SPLITS),
        },
        {
            "check": "Largest to smallest class in train",
            "finding": f"{max(balance):,} to {min(balance):,} rows" if balance else "no classes",
            "alarm": bool(balance) and max(balance) > 10 * min(balance),
        },
        {
            "check": "Splits cut from train by hash",
            "finding": ", ".join(checks["cut_from_train"]) or "none",
            "alarm": False,
        },
    ]


def split_table(dataset: Mapping[str, Any], tokens: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per split: rows, words and tokens (minimum, median, maximum), rows per class."""
    checks = dataset["checks"]
    return [
        {
            "split": split,
            "rows": tokens[split]["rows"],
            "words": [checks["words"][split][place] for place in (0, 2, 4)],
            "tokens": [tokens[split]["tokens"][place] for place in (0, 2, 4)],
            "classes": checks["classes"][split],
        }
        for split in SPLITS
    ]


def training_facts(checkpoint: Checkpoint) -> str:
    """Return how training went, and whether times and speed are those of its last part only."""
    ended = {"finished": "all planned steps", "early_stopping": "stopped early, as set"}[checkpoint.stop_reason]
    resumed = (
        f" It was interrupted and went on from optimizer step {checkpoint.resumed_from:,}; time and speed are of the rest."
        if checkpoint.resumed_from
        else ""
    )
    return (
        f"{checkpoint.steps:,} of {checkpoint.planned_steps:,} optimizer steps ({ended}), {checkpoint.rows_per_s:.1f} rows/s; "
        f"epoch {checkpoint.best_epoch:g} was kept, the best on validation.{resumed}"
    )


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested settings as pairs of dotted name and value."""
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        flat += flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return flat


def _per_split(counts: Mapping[str, int]) -> str:
    found: Sequence[str] = [f"{count:,} in {split}" for split, count in counts.items() if count]
    return ", ".join(found) or "none"
