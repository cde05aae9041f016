"""What the report says, as plain data: pure functions from records and analyses to words and numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.comparison.analysis import in_words
from tasks.kinds.kind import Kind
from tasks.records import SPLITS, Checkpoint, Head, Scores, Word
from tasks.reporting.charts import title
from tasks.significance import LEAST_CHANGED


def headline(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that are not of one class."""
    return {name: value for name, value in metrics.items() if "/" not in name}


def charted(kind: Kind, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the headline metrics that are fractions of which more is better, or the primary one where there are none."""
    left_out = kind.lower_is_better | kind.unbounded | kind.neutral
    fractions = {name: value for name, value in headline(metrics).items() if name not in left_out}
    return fractions or {kind.primary_metric: metrics[kind.primary_metric]}


def change(entry: Mapping[str, Any]) -> str:
    """Return a metric's difference as a person reads it: a fraction of which more is better in points."""
    points = entry["fraction"] and entry["better"] != "lower"
    return f"{100 * entry['difference']:+.1f} points" if points else f"{entry['difference']:+.4f}"


_APART = 2 * 2**0.5
"""Two standard deviations of the difference of two values, in those of one."""
_WORDS: dict[Word, str] = {
    "improved": "Improved",
    "no evidence": "No evidence of a difference",
    "regressed": "Regressed",
}


def noise(kind: Kind, deviation: float | None, seeds: int) -> str:
    """Return how far the score moves from seed to seed; empty where that was not measured."""
    if deviation is None:
        return ""
    name = kind.primary_metric
    told, apart = (in_words(kind, name, value).removeprefix("+") for value in (deviation, _APART * deviation))
    return (
        f"Over {seeds} seeds the standard deviation of {title(name)} is {told}: trainings that differ in the seed alone "
        f"come to lie up to {apart} apart."
    )


def sentence(kind: Kind, before: Scores, after: Scores, word: Word, intervals: Mapping[str, tuple[float, float]]) -> str:
    """Return the verdict with the scores, the difference and its interval, in one sentence."""
    name = kind.primary_metric
    old, new = before.metrics[name], after.metrics[name]
    lower = name in kind.lower_is_better
    told = (
        f"{_WORDS[word]}: {title(name)} on {after.rows:,} test rows is {new:.3f} after fine-tuning and {old:.3f} before, "
        f"a difference of {in_words(kind, name, new - old)}"
    )
    if name in intervals:
        low, high = intervals[name]
        told += f" (95 % interval {in_words(kind, name, low, unit=False)} to {in_words(kind, name, high)})"
    return f"{told}{'; lower is better' if lower else ''}."


def caution(kind: Kind, analysis: Mapping[str, Any]) -> str:
    """Return what the test set could have shown, where it shows nothing; else empty."""
    verdict = analysis["verdict"]
    if verdict["word"] != "no evidence":
        return ""
    if verdict["changed"] < LEAST_CHANGED:
        return f"{verdict['changed']:,} rows changed their score; it takes {LEAST_CHANGED} for any evidence."
    size = in_words(kind, kind.primary_metric, verdict["detectable"]).removeprefix("+")
    return f"Of a true difference of {size}, rows like these would give evidence four times in five."


def interval(entry: Mapping[str, Any]) -> str:
    """Return the interval of a metric's difference as the report's table shows it; a dash where there is none."""
    if entry["low"] is None:
        return "–"
    low, high = (change({**entry, "difference": entry[end]}) for end in ("low", "high"))
    return f"{low.removesuffix(' points')} to {high}"


_HEADS: dict[Head, str] = {
    "fresh": "The untouched model has no head for this task{classes}: its head is freshly initialised with the run's seed, so "
    "the scores before are those of guessing.",
    "pretrained": "The untouched model brings its own head for this task{classes}; the scores before are those of the model as "
    "it came.",
    "trained": "The untouched model was trained for this task{classes} before.",
    "warm-started": "The untouched model was made out of one for another task: what it lacks is freshly initialised with the "
    "run's seed, so the scores before are close to those of guessing.",
    "made": "The untouched model is small and was made at random with the run's seed: the scores before are those of guessing.",
}


def head_note(scores: Scores, *, classes: bool) -> str:
    """Return what the reader must know of the untouched model; `classes` says whether its task has any."""
    return _HEADS[scores.head].format(classes=" with these classes" if classes else "")


def calibration(before: Scores, after: Scores) -> str:
    """Return what was chosen on validation, as a sentence; empty where nothing was."""
    chosen = [
        f"{name.replace('_', ' ')} {before.calibration[name]:.4g} before and {after.calibration[name]:.4g} after"
        for name in before.calibration
    ]
    return f"Chosen on validation: {', '.join(chosen)}." if chosen else ""


def words(kind: Kind) -> dict[str, str]:
    """Return how the report names rows that changed."""
    if kind.right_or_wrong:
        return {
            "fixed": "Rows that were fixed",
            "fixed_lead": "Wrong before and right after",
            "broken": "Rows that broke",
            "broken_lead": "Right before and wrong after",
            "short": "rows fixed / broken",
        }
    return {
        "fixed": "Rows that gained",
        "fixed_lead": "A better score after than before",
        "broken": "Rows that lost",
        "broken_lead": "A worse score after than before",
        "short": "rows gained / lost",
    }


def samples(
    before: Sequence[Mapping[str, str]], after: Sequence[Mapping[str, str]], champion: Sequence[Mapping[str, str]] = ()
) -> list[dict[str, Any]]:
    """Return the texts that the models made of the same rows, side by side.

    The champion's is one with its own prompt, for its tokenizer may end that elsewhere; None where its settings ask for none.
    """
    made = {sample["id"]: sample for sample in champion}
    return [
        {"prompt": old["prompt"], "before": old["text"], "champion": made.get(old["id"]), "after": new["text"]}
        for old, new in zip(before, after, strict=True)
    ]


def class_table(analysis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per class: counts, and each per-class metric before and after; none where there are no classes."""
    metrics = {entry["name"]: entry for entry in analysis["metrics"]}
    return [
        {**entry, **{name: metrics[f"{name}/{entry['label']}"] for name in ("precision", "recall", "f1")}}
        for entry in analysis.get("classes", [])
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
            "check": f"Texts with contradictory {'labels' if dataset['labels'] else 'targets'}",
            "finding": f"{checks['contradictory']:,}",
            "alarm": checks["contradictory"] > 0,
        },
        {"check": "Empty texts, left out", "finding": _per_split(checks["empty"]), "alarm": any(checks["empty"].values())},
        {
            "check": f"Rows truncated to {max_length} tokens",
            "finding": _per_split(truncated),
            "alarm": sum(truncated.values()) > 0.05 * sum(tokens[split]["rows"] for split in SPLITS),
        },
        *(
            [
                {
                    "check": "Largest to smallest class in train",
                    "finding": f"{max(balance):,} to {min(balance):,} rows",
                    "alarm": max(balance) > 10 * min(balance),
                }
            ]
            if balance
            else []
        ),
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
