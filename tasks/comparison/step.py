"""The steps `compare` and `compare-champion`: the same test rows by two models."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.champions import Champion
from tasks.comparison.analysis import alone, analyse, examples, read_predictions, verdict_of
from tasks.comparison.gate import comparisons, measure
from tasks.comparison.slices import contrast_slices, slices_of
from tasks.config import ExperimentConfig
from tasks.data.arrays import as_array
from tasks.errors import DataError
from tasks.kinds.kind import Array, Kind
from tasks.metrics import scores_of
from tasks.records import Checkpoint, Contest, DatasetRef, Lead, Leads, Scores, Stage, Verdict
from tasks.significance import Statistics, paired_intervals
from tasks.steps import Run, read_json, step, write_json
from tasks.trained import read_trained

if TYPE_CHECKING:
    import datasets
    import pandas as pd


@step("compare", reads=("kind", "gate"))
def compare(run: Run, folder: Path, *, dataset: DatasetRef, before: Scores, after: Scores) -> Verdict:
    """Compare before and after. The artifact holds `analysis.json` and `rows.json`, see `analyse` and `examples`."""
    pair = _Pair.read(run, compare.kind(run, _labels(run, dataset)), dataset, before, after)
    analysis = pair.analysis(run.config)
    write_json(folder / "analysis.json", analysis)
    write_json(folder / "rows.json", pair.examples())
    return Verdict(**_verdict(analysis))


@step("compare-champion", reads=("kind", "gate"))
def compare_champion(
    run: Run,
    folder: Path,
    *,
    dataset: DatasetRef,
    untouched: Scores,
    champion: Scores,
    challenger: Scores,
    old: Champion,
    new: Checkpoint,
) -> Contest:
    """Compare the champion with its challenger, on the rows that neither was trained on, of which it has the untouched model too.

    The artifact holds `analysis.json`, as that of `compare`.
    """
    pair = _Pair.read(run, compare_champion.kind(run, _labels(run, dataset)), dataset, champion, challenger)
    seen = [read_trained(run.store.fetch(model.key)).seen() for model in (old, new)]
    kept = ~np.isin(as_array(pair.rows, "hash"), np.concatenate(seen))
    if not kept.any():
        raise DataError("Every test row was trained on by the champion or its challenger; give other rows in data.test.")
    pair = pair.only(np.flatnonzero(kept))
    analysis = pair.analysis(run.config)
    write_json(folder / "analysis.json", analysis)
    statistics = _statistics(run, untouched)[np.flatnonzero(kept)]
    values = {name: {entry["name"]: entry[name] for entry in analysis["metrics"]} for name in ("before", "after")}
    return Contest(
        **_verdict(analysis),
        rows=int(kept.sum()),
        dropped=int((~kept).sum()),
        untouched=scores_of(pair.kind, np.asarray(statistics.sum(0)).ravel()),
        champion=values["before"],
        challenger=values["after"],
    )


@step("compare-baselines", reads=("kind",))
def compare_baselines(run: Run, folder: Path, *, dataset: DatasetRef, after: Scores, **baselines: Scores) -> Leads:
    """Compare the fine-tuned model with each baseline by the primary metric. The artifact holds `leads.json`."""
    kind = compare_baselines.kind(run, _labels(run, dataset))
    name, found = kind.primary_metric, {}
    for baseline, scores in baselines.items():
        pair = _Pair.read(run, kind, dataset, scores, after)
        old, new = (frame["score"].to_numpy() for frame in pair.predictions)
        intervals = paired_intervals(alone(kind, name), *pair.statistics)
        verdict = verdict_of(kind, {"fixed": int((new > old).sum()), "broken": int((new < old).sum())}, intervals.get(name))
        found[baseline] = Lead(
            word=verdict["word"],
            metrics=scores.metrics,
            difference={name: after.metrics[name] - scores.metrics[name]},
            intervals={metric: (interval.low, interval.high) for metric, interval in intervals.items()},
        )
    write_json(folder / "leads.json", {baseline: lead.model_dump(mode="json") for baseline, lead in found.items()})
    return Leads(baselines=found)


def contend(run: Run, dataset: DatasetRef, stage: Stage, champion: Champion | None) -> Contest | None:
    """Compare the champion with its challenger, if there is one and it is not the same; the record says who the champion was."""
    if champion is None or stage.champion is None:
        return None
    found = compare_champion(
        run,
        dataset=dataset,
        untouched=stage.before,
        champion=stage.champion,
        challenger=stage.after,
        old=champion,
        new=stage.checkpoint,
    )
    return found.model_copy(update={"champion_run": champion.run, "champion_since": champion.since})


def _labels(run: Run, dataset: DatasetRef) -> list[str]:
    labels: list[str] = read_json(run.store.fetch(dataset.key) / "info.json")["labels"]
    return labels


def _statistics(run: Run, scores: Scores) -> Statistics:
    from scipy import sparse

    return sparse.load_npz(run.store.fetch(scores.key) / "statistics.npz").tocsr()


def _verdict(analysis: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "word": analysis["verdict"]["word"],
        "intervals": {entry["name"]: (entry["low"], entry["high"]) for entry in analysis["metrics"] if entry["low"] is not None},
        "difference": {entry["name"]: entry["difference"] for entry in analysis["metrics"]},
        "fixed": analysis["rows"]["fixed"],
        "broken": analysis["rows"]["broken"],
    }


@dataclass(frozen=True)
class _Pair:
    """What two models said of the same test rows."""

    kind: Kind
    rows: "datasets.Dataset"
    predictions: "tuple[pd.DataFrame, pd.DataFrame]"
    statistics: tuple[Statistics, Statistics]

    @classmethod
    def read(cls, run: Run, kind: Kind, dataset: DatasetRef, before: Scores, after: Scores) -> "_Pair":
        import datasets

        old, new = (run.store.fetch(scores.key) / "predictions.parquet" for scores in (before, after))
        rows = datasets.Dataset.load_from_disk(str(run.store.fetch(dataset.key) / "test"))
        return cls(kind, rows, read_predictions(old, new), (_statistics(run, before), _statistics(run, after)))

    def only(self, rows: Array) -> "_Pair":
        """Return the same for some of the rows, by their positions."""
        old, new = (frame.iloc[rows].reset_index(drop=True) for frame in self.predictions)
        before, after = (part[rows] for part in self.statistics)
        return _Pair(self.kind, self.rows.select(rows), (old, new), (before, after))

    def analysis(self, config: ExperimentConfig) -> dict[str, Any]:
        """Return what `analyse` does, with `slices` (see `contrast_slices`) and `gate` (see `measure`)."""
        old, new = self.predictions
        metrics = [scores_of(self.kind, np.asarray(part.sum(0)).ravel()) for part in self.statistics]
        together = comparisons(self.kind, config.gate)
        intervals = paired_intervals(self.kind.metrics, *self.statistics, comparisons=together)
        slices = slices_of(self.kind, self.rows)
        scores = old["score"].to_numpy(), new["score"].to_numpy()
        return {
            **analyse(self.kind, old, new, metrics[0], metrics[1], intervals),
            "slices": contrast_slices(self.kind, slices, self.statistics, scores),
            "gate": measure(self.kind, config.gate, slices, *self.statistics, config.data.slice_columns),
        }

    def examples(self) -> dict[str, Any]:
        """Return what `examples` does, of both sorts."""
        return {sort: examples(self.kind, *self.predictions, self.rows, sort) for sort in ("fixed", "broken")}
