"""The files of a run's folder: what the report tells, its charts, and the numbers as JSON."""

import datetime as dt
import platform
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tasks.champions import read_registry
from tasks.kinds.kind import Kind
from tasks.model_card import with_verdict
from tasks.records import DatasetRef, Report, Stage
from tasks.reporting import charts, standing, story
from tasks.reporting.page import render
from tasks.steps import Run, read_json, write_json

_VERSIONS = "finetune-flows prefect torch transformers tokenizers datasets evaluate accelerate numpy scipy scikit-learn".split()


class Pages:
    """What is written of a run.

    Args:
        run: The run.
        record: Its outcome.
        dataset: The dataset.
        tokens: Its tokens.
        stage: What was trained and scored.
    """

    def __init__(self, run: Run, record: Report, dataset: DatasetRef, tokens: DatasetRef, stage: Stage) -> None:
        self.run, self.record, self.stage = run, record, stage
        self.kind: Kind = run.kind
        self.dataset, self.test_digest = self._read(dataset.key, "info.json"), dataset.test_digest
        self.tokens = self._read(tokens.key, "info.json")
        self.analysis: dict[str, Any] = self._read(record.steps["compare"], "analysis.json")
        self.against: dict[str, Any] | None = (
            self._read(record.contest.key, "analysis.json") if record.contest is not None else None
        )
        self.log = self._read(stage.checkpoint.key, "training_log.json")
        registry, _ = read_registry(run.store, record.name)
        self.ticks = registry.ticks if registry else []

    def write(self, folder: Path) -> None:
        """Write `report.html`, the charts, `metrics.json`, `run.json` and `model_card.md`."""
        (folder / "report.html").write_text(render(self.told, self.charts), encoding="utf-8")
        card = (self.run.store.fetch(self.stage.checkpoint.key) / "model" / "README.md").read_text(encoding="utf-8")
        (folder / "model_card.md").write_text(with_verdict(card, self.record), encoding="utf-8")
        for name, png in self.charts.items():
            (folder / f"{name}.png").write_bytes(png)
        write_json(folder / "metrics.json", self.metrics())
        told = {name: self.told[name] for name in ("inputs", "versions", "device_seconds", "device", "finished")}
        config = self.run.config.model_dump(mode="json")
        write_json(folder / "run.json", {"schema": 1, **self.record.model_dump(mode="json"), **told, "config": config})

    def _read(self, key: str, name: str) -> Any:
        return read_json(self.run.store.fetch(key) / name)

    @cached_property
    def charts(self) -> dict[str, bytes]:
        """PNG by name."""
        stage, kind, contest = self.stage, self.kind, self.record.contest
        champion = story.charted(kind, contest.champion) if contest else None
        bars = [story.charted(kind, scores.metrics) for scores in (stage.before, stage.after)]
        found = {
            "scores": charts.scores_chart(bars[0], bars[1], champion),
            "training": charts.training_chart(
                self.log["history"], stage.checkpoint.best_epoch, kind.loss_metric, kind.primary_metric
            ),
        }
        panels = {"After less before": self._fractions(self.analysis)}
        if self.against is not None:
            panels["After less champion"] = self._fractions(self.against)
        if all(panels.values()):
            found["forest"] = charts.forest_chart(panels)
        if "confusion" in self.analysis:
            found["confusion"] = charts.confusion_chart(self.analysis["labels"], **self.analysis["confusion"])
        if curves := self._curves():
            found["reliability"] = charts.reliability_chart(curves)
        if len(self.ticks) > 1:
            found["trend"] = charts.trend_chart(self.told["trend"], kind.primary_metric)
        return found

    def _fractions(self, analysis: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [
            entry
            for entry in analysis["metrics"]
            if "/" not in entry["name"] and entry["fraction"] and entry["better"] != "neither" and entry["low"] is not None
        ]

    def _curves(self) -> dict[str, Any]:
        found: dict[str, Any] = dict(self.analysis.get("reliability", {}))
        if found and self.against is not None:
            found["champion"] = self.against["reliability"]["before"]
        return found

    @cached_property
    def told(self) -> dict[str, Any]:
        """What the page says."""
        return {**self._verdicts(), **self._details(), **self._origins()}

    def _verdicts(self) -> dict[str, Any]:
        """Return what the page says of the models' scores."""
        record, kind, stage, analysis = self.record, self.kind, self.stage, self.analysis
        contest, baselines = record.contest, {name: lead.model_dump() for name, lead in record.baselines.items()}
        return {
            "sentences": outcome_sentences(kind, stage, record)[:-1],
            "promotion": standing.promotion_sentence(record.promotion, record.name),
            "reasons": record.promotion.reasons,
            "champion_note": standing.champion_note(contest),
            "contest": contest,
            "caution": story.caution(kind, analysis),
            "noise": story.noise(kind, record.promotion.noise, len(stage.others) + 1),
            "calibration": story.calibration(stage.before, stage.after),
            "head_note": story.head_note(stage.before, classes=bool(self.dataset["labels"])),
            "primary": next(entry for entry in analysis["metrics"] if entry["name"] == kind.primary_metric),
            "metrics": standing.three_way(analysis, contest, self.against, list(story.headline(record.before))),
            "baselines": standing.baseline_table(kind, baselines, stage.skipped),
            "trend": standing.trend_table(self.ticks),
        }

    def _details(self) -> dict[str, Any]:
        """Return what the page says of parts of the test rows."""
        kind, stage, analysis, compared = self.kind, self.stage, self.analysis, self.against or self.analysis
        worst = standing.worst_slices(kind, compared["slices"], "the champion" if self.against else "before")
        return {
            "rows": analysis["rows"],
            "words": story.words(kind),
            "classes": story.class_table(analysis),
            "sources": [*([worst] if worst else []), *analysis["sources"]],
            "slices": standing.slice_table(kind, compared["slices"]),
            "slices_all": len(compared["slices"]),
            "examples": self._examples(),
            "samples": story.samples(
                *(self._read(scores.key, "samples.json") for scores in (stage.before, stage.after, stage.champion) if scores)
            ),
            "labels": self.dataset["labels"],
            "findings": story.findings(self.dataset, self.tokens, self.run.config.training.max_length),
            "splits": story.split_table(self.dataset, self.tokens),
        }

    def _examples(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows that changed most, with what the champion said of them where there is one."""
        rows: dict[str, list[dict[str, Any]]] = self._read(self.record.steps["compare"], "rows.json")
        shown = [row["id"] for of_sort in rows.values() for row in of_sort]
        if self.stage.champion is None or not shown:
            return rows
        import pandas as pd

        table = self.run.store.fetch(self.stage.champion.key) / "predictions.parquet"
        said: Any = pd.read_parquet(table, filters=[("id", "in", shown)]).to_dict("records")
        return standing.with_champion(self.kind, rows, said)

    def _origins(self) -> dict[str, Any]:
        """Return what the page says of the run itself."""
        record, stage, processes = self.record, self.stage, self.run.config.training.processes
        return {
            "name": record.name,
            "kind": record.kind,
            "flow_run": record.flow_run,
            "finished": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "training": story.training_facts(stage.checkpoint),
            "cost": standing.cost(self.kind, stage, processes),
            "device_seconds": standing.device_seconds(stage, processes),
            "device": stage.after.device,
            "model": record.model,
            "config": story.flatten(self.run.config.model_dump(mode="json")),
            "inputs": self.run.inputs.model_dump(exclude={"key"}),
            "steps": record.steps,
            "versions": versions(),
        }

    def metrics(self) -> dict[str, Any]:
        """Return `metrics.json`, see docs/metrics.md. No times are among it, so that equal runs have equal files."""
        record, analysis, contest = self.record, self.analysis, self.record.contest
        found = {
            "schema": 1,
            **record.model_dump(mode="json", include={"kind", "name", "primary_metric", "rows"}),
            "test_digest": self.test_digest,
            **record.model_dump(mode="json", include={"before", "after", "difference", "intervals"}),
            **{name: analysis.get(name) for name in ("verdict", "slices", "gate", "reliability")},
            "champion": None,
            "baselines": {name: lead.model_dump(mode="json", exclude={"key"}) for name, lead in record.baselines.items()},
            "baselines_skipped": self.stage.skipped,
            "promotion": record.promotion.model_dump(mode="json", exclude={"key"}),
        }
        if contest is not None and self.against is not None:
            names = {"rows", "dropped", "untouched", "champion", "challenger", "difference", "intervals"}
            found["champion"] = {
                **contest.model_dump(mode="json", include=names),
                **{name: self.against.get(name) for name in ("verdict", "slices", "gate", "reliability")},
            }
        return found


def outcome_sentences(kind: Kind, stage: Stage, record: Report) -> list[str]:
    """Return what a person must know of the run: the verdict, the champion, the best baseline, what became of the model."""
    baselines = {name: lead.model_dump() for name, lead in record.baselines.items()}
    found = [
        story.sentence(kind, stage.before, stage.after, record.verdict, record.intervals),
        standing.contest_sentence(kind, record.contest) if record.contest else "",
        standing.baseline_sentence(kind, baselines),
        standing.promotion_sentence(record.promotion, record.name),
    ]
    return [sentence for sentence in found if sentence]


def versions() -> dict[str, str]:
    """Return the versions of what decides a run's result."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
