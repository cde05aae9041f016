"""What the report says beyond before and after: champion, gate, slices, baselines, trend and cost; pure functions."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.champions import Tick
from tasks.comparison.analysis import in_words, shown_answer
from tasks.kinds.kind import Kind
from tasks.records import Checkpoint, Contest, Promotion, Stage, Word
from tasks.reporting.charts import title
from tasks.text import duration, one_line

MOST_SLICES = 20
"""Slices shown."""
MOST_TICKS = 20
"""Past runs shown."""
_AGAINST: dict[Word, str] = {
    "improved": "Better than the champion",
    "no evidence": "No evidence of a difference from the champion",
    "regressed": "Worse than the champion",
}


def contest_sentence(kind: Kind, contest: Contest) -> str:
    """Return the comparison with the champion in one sentence."""
    name = kind.primary_metric
    told = (
        f"{_AGAINST[contest.word]}: {title(name)} on {contest.rows:,} test rows is {contest.challenger[name]:.3f} and the "
        f"champion's {contest.champion[name]:.3f}, a difference of {in_words(kind, name, contest.difference[name])}"
    )
    if name in contest.intervals:
        low, high = contest.intervals[name]
        told += f" (95 % interval {in_words(kind, name, low, unit=False)} to {in_words(kind, name, high)})"
    if contest.dropped:
        told += f"; {contest.dropped:,} test rows that one of them has seen in training are left out"
    return f"{told}."


def promotion_sentence(promotion: Promotion, name: str) -> str:
    """Return what became of the model, in a sentence."""
    match promotion.outcome:
        case "first champion":
            return f"It is the first champion of {name}."
        case "promoted":
            return f"It was promoted: it is the champion of {name} now."
        case _:
            return (
                f"It was held, so the champion of {name} stays."
                if promotion.champion
                else f"It was held: {name} has no champion yet."
            )


def baseline_sentence(kind: Kind, baselines: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how the model compares with the best baseline; empty where there is none."""
    if not baselines:
        return ""
    name = kind.primary_metric
    sign = -1 if name in kind.lower_is_better else 1
    best = max(baselines, key=lambda one: sign * baselines[one]["metrics"][name])
    found = baselines[best]
    told = {"improved": "Better than", "no evidence": "No evidence of a difference from", "regressed": "Worse than"}[
        found["word"]
    ]
    return (
        f"{told} the best baseline, {BASELINES.get(best, best)}, whose {title(name)} is {found['metrics'][name]:.3f}: "
        f"a difference of {in_words(kind, name, found['difference'][name])}{_interval(kind, name, found['intervals'].get(name))}."
    )


BASELINES = {
    "majority": "the most frequent class",
    "mean": "the mean of the train split",
    "lead": "the text's first words",
    "unigram": "token frequencies",
    "overlap": "the part of the text with most words of the question",
    "linear": "a linear model on words",
    "probe": "a linear model on the frozen model",
    "zero_shot": "the untouched decoder's likelihood of the labels",
}
"""Name of a baseline to what it is."""


def _interval(kind: Kind, name: str, ends: tuple[float, float] | None) -> str:
    if ends is None:
        return ""
    return f" (95 % interval {in_words(kind, name, ends[0], unit=False)} to {in_words(kind, name, ends[1])})"


def baseline_table(kind: Kind, baselines: Mapping[str, Mapping[str, Any]], skipped: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a row per baseline: name, primary metric, the fine-tuned model's lead with its interval; or why there is none."""
    name = kind.primary_metric
    rows = [
        {
            "name": BASELINES.get(one, one),
            "value": found["metrics"][name],
            "difference": in_words(kind, name, found["difference"][name]),
            "interval": _interval(kind, name, found["intervals"].get(name)).strip(" ()").removeprefix("95 % interval "),
            "skipped": "",
        }
        for one, found in baselines.items()
    ]
    none = {"value": None, "difference": "", "interval": ""}
    return rows + [{**none, "name": BASELINES.get(one, one), "skipped": why} for one, why in skipped.items()]


def slice_table(kind: Kind, slices: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the slices as the report shows them, those that lost most beyond doubt first."""
    name = kind.primary_metric
    lower = name in kind.lower_is_better
    rows = []
    for entry in slices[:MOST_SLICES]:
        shown = {**entry, "difference": in_words(kind, name, entry["difference"]), "interval": "–", "sign": ""}
        if entry["low"] is not None:
            shown["interval"] = f"{in_words(kind, name, entry['low'], unit=False)} to {in_words(kind, name, entry['high'])}"
            if entry["low"] > 0 or entry["high"] < 0:
                shown["sign"] = "better" if (entry["low"] > 0) is not lower else "worse"
        rows.append(shown)
    return rows


def worst_slices(kind: Kind, slices: Sequence[Mapping[str, Any]], against: str) -> str:
    """Return a sentence that names the slices that are worse beyond doubt; empty if there are none."""
    worse = [entry for entry in slice_table(kind, slices) if entry["sign"] == "worse"][:5]
    if not worse:
        return ""
    listed = "; ".join(f"{one_line(entry['by'], 50)} “{one_line(entry['value'], 50)}” ({entry['difference']})" for entry in worse)
    return f"Worse than {against} in {listed}."


def with_champion(
    kind: Kind, rows: Mapping[str, Sequence[Mapping[str, Any]]], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows that are shown, by sort, each with what the champion said of it.

    Args:
        kind: The kind.
        rows: As `examples` returns them.
        predictions: Rows of the champion's `predictions.parquet`, these among them.
    """
    said = {entry["id"]: shown_answer(kind, entry) for entry in predictions}
    return {sort: [{**row, "champion": said[row["id"]]} for row in shown] for sort, shown in rows.items()}


def three_way(
    analysis: Mapping[str, Any], contest: Contest | None, against: Mapping[str, Any] | None, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return a row per metric: `untouched`, `champion` (None where there is none), `challenger`, and both differences.

    Args:
        analysis: Of the untouched and the fine-tuned model.
        contest: The comparison with the champion.
        against: Its analysis.
        names: The metrics.
    """
    entries = {entry["name"]: entry for entry in analysis["metrics"]}
    others = {entry["name"]: entry for entry in against["metrics"]} if against else {}
    return [
        {
            "name": name,
            "better": entries[name]["better"],
            "untouched": contest.untouched[name] if contest else entries[name]["before"],
            "champion": contest.champion[name] if contest else None,
            "challenger": contest.challenger[name] if contest else entries[name]["after"],
            "from_untouched": entries[name],
            "from_champion": others.get(name),
        }
        for name in names
    ]


def trend_table(ticks: Sequence[Tick]) -> list[dict[str, Any]]:
    """Return the last runs of the name, newest last; `changed` says whether the test rows are others than the run's before."""
    shown = []
    for place, tick in enumerate(ticks):
        before = ticks[place - 1] if place else tick
        shown.append({**tick.model_dump(), "changed": tick.test != before.test})
    return shown[-MOST_TICKS:]


def champion_note(contest: Contest | None) -> str:
    """Return who the champion was when the models were compared; empty if there was none."""
    if contest is None:
        return ""
    return f"The champion that it met was the model of run {contest.champion_run}, promoted on {contest.champion_since[:10]}."


def cost(kind: Kind, stage: Stage, processes: int) -> list[dict[str, str]]:
    """Return what the run cost, as pairs of `what` and `amount`; times are those of the artifacts, when they were made."""
    name, trained = kind.primary_metric, stage.checkpoint
    spent = device_seconds(stage, processes)
    total = sum(spent.values())
    rows = [{"what": what, "amount": f"{duration(seconds)} ({seconds:,.1f} device-seconds)"} for what, seconds in spent.items()]
    rows.append({"what": "All together", "amount": f"{duration(total)} ({total:,.1f} device-seconds)"})
    rows.append(
        {
            "what": "Training speed",
            "amount": f"{trained.rows_per_s:,.1f} rows/s, {trained.tokens_per_s:,.0f} tokens/s "
            f"({trained.padded_tokens_per_s:,.0f} with padding)",
        }
    )
    rows.append({"what": "Lost to interruptions", "amount": duration(trained.lost_s)})
    gain = stage.after.metrics[name] - stage.before.metrics[name]
    gain = -gain if name in kind.lower_is_better else gain
    if gain > 0 and name not in kind.unbounded:
        rows.append({"what": "Per point gained", "amount": f"{total / (100 * gain):,.1f} device-seconds"})
    return rows


def device_seconds(stage: Stage, processes: int) -> dict[str, float]:
    """Return the seconds of each part times the devices that it used; training uses one per process."""
    trained: Checkpoint = stage.checkpoint
    found = {
        "Scoring the untouched model": stage.before.seconds,
        "Fine-tuning": trained.seconds * processes,
        "Scoring the fine-tuned model": stage.after.seconds,
    }
    if stage.champion is not None:
        found["Scoring the champion"] = stage.champion.seconds
    if stage.others:
        found["Training with other seeds"] = sum(other.seconds for other in stage.others_trained) * processes
        found["Scoring these"] = sum(scores.seconds for scores in stage.others)
    if stage.baselines:
        found["Baselines"] = sum(scores.seconds for scores in stage.baselines.values())
    return found
