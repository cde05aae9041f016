"""The task `report`: writes the run's folder and shows the outcome in the Prefect UI."""

import base64
import datetime as dt
import platform
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run

from tasks.records import Checkpoint, DatasetRef, Report, Scores, Verdict
from tasks.reporting import charts, story
from tasks.reporting.page import render
from tasks.steps import TASK_OPTIONS, Run, log_info, read_json, write_json
from tasks.text import escape_markdown, slug

_VERSIONS = "finetune-flows prefect torch transformers tokenizers datasets evaluate accelerate numpy".split()


@task(name="report", task_run_name="report", **TASK_OPTIONS)
def report(
    run: Run,
    *,
    dataset: DatasetRef,
    tokens: DatasetRef,
    before: Scores,
    checkpoint: Checkpoint,
    after: Scores,
    verdict: Verdict,
) -> Report:
    """Publish the run's folder: `report.html`, charts, `metrics.json`, predictions before and after, `run.json`."""
    store, kind = run.store, run.kind
    key = f"runs/{slug(str(flow_run.name))}-{str(flow_run.id)[:8]}"
    record = Report(
        key=key,
        kind=run.kind_name,
        name=run.config.name,
        flow_run=str(flow_run.name),
        report=f"{store.locate(key)}/report.html",
        model=f"{store.locate(checkpoint.key)}/model",
        before=before.metrics,
        after=after.metrics,
        difference=verdict.difference,
        intervals=verdict.intervals,
        verdict=verdict.word,
        outcome=story.sentence(kind, before, after, verdict),
        primary_metric=kind.primary_metric,
        rows=after.rows,
        steps={
            "load-dataset": dataset.key,
            "tokenize": tokens.key,
            "evaluate-baseline": before.key,
            "fine-tune": checkpoint.key,
            "evaluate-fine-tuned": after.key,
            "compare": verdict.key,
        },
        unchanged_since=_made_by_another(run, verdict),
    )
    if record.unchanged_since:
        log_info(unchanged(record))
    analysis = read_json(store.fetch(verdict.key) / "analysis.json")
    log = read_json(store.fetch(checkpoint.key) / "training_log.json")
    pictures = {
        "scores": charts.scores_chart(*(story.charted(kind, scores.metrics) for scores in (before, after))),
        "training": charts.training_chart(log["history"], checkpoint.best_epoch, kind.loss_metric, kind.primary_metric),
    }
    if "confusion" in analysis:
        pictures["confusion"] = charts.confusion_chart(analysis["labels"], **analysis["confusion"])
    told = _tell(run, record, analysis, before, checkpoint, after) | {
        "findings": story.findings(
            found := read_json(store.fetch(dataset.key) / "info.json"),
            lengths := read_json(store.fetch(tokens.key) / "info.json"),
            run.config.training.max_length,
        ),
        "splits": story.split_table(found, lengths),
        "examples": read_json(store.fetch(verdict.key) / "rows.json"),
        "samples": story.samples(*(read_json(store.fetch(scores.key) / "samples.json") for scores in (before, after))),
        "labels": found["labels"],
        "head_note": story.head_note(before, classes=bool(found["labels"])),
    }
    with tempfile.TemporaryDirectory(prefix="finetune-flows-") as scratch:
        folder = Path(scratch)
        (folder / "report.html").write_text(render(told, pictures), encoding="utf-8")
        for name, png in pictures.items():
            (folder / f"{name}.png").write_bytes(png)
        for name, scores in (("before", before), ("after", after)):
            shutil.copyfile(store.fetch(scores.key) / "predictions.parquet", folder / f"predictions_{name}.parquet")
        write_json(folder / "metrics.json", _metrics(record, analysis))
        write_json(
            folder / "run.json",
            {
                "schema": 1,
                **record.model_dump(mode="json"),
                **{name: told[name] for name in ("inputs", "versions", "durations", "device", "finished")},
                "config": run.config.model_dump(mode="json"),
            },
        )
        used = list(record.steps.values())
        store.publish(folder, key, record.model_dump(mode="json"), inputs=used, made_by=run.id, own=True)
    _show(record, told, pictures["scores"])
    return record


def unchanged(record: Report) -> str:
    """Say that a run had nothing to compute."""
    return f"Nothing changed since {record.unchanged_since}: data, model, code and settings are the same; no step was computed."


def _made_by_another(run: Run, verdict: Verdict) -> str:
    """Return the name of the run that made the comparison, or its id where its folder is gone; empty if it was this one."""
    made = run.store.inspect(verdict.key)
    if made is None or made.made_by in ("", run.id):
        return ""
    keys = (key.removeprefix("runs/") for key in run.store.list("runs"))
    ending = f"-{made.made_by[:8]}"
    return next((key.removesuffix(ending) for key in keys if key.endswith(ending)), f"run {made.made_by[:8]}")


def _tell(
    run: Run, record: Report, analysis: dict[str, Any], before: Scores, checkpoint: Checkpoint, after: Scores
) -> dict[str, Any]:
    """Collect what the page says of the scores and of how they came about."""
    metrics = {entry["name"]: entry for entry in analysis["metrics"]}
    return {
        "name": record.name,
        "kind": record.kind,
        "flow_run": record.flow_run,
        "finished": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "outcome": record.outcome,
        "caution": story.caution(run.kind, analysis),
        "calibration": story.calibration(before, after),
        "primary": metrics[run.kind.primary_metric],
        "metrics": [metrics[name] for name in story.headline(before.metrics)],
        "rows": analysis["rows"],
        "words": story.words(run.kind),
        "classes": story.class_table(analysis),
        "sources": analysis["sources"],
        "training": story.training_facts(checkpoint),
        "config": story.flatten(run.config.model_dump(mode="json")),
        "durations": {
            "Scoring before": before.seconds,
            "Fine-tuning": checkpoint.seconds,
            "Scoring after": after.seconds,
        },
        "device": after.device,
        "model": record.model,
        "inputs": run.inputs.model_dump(exclude={"key"}),
        "steps": record.steps,
        "versions": versions(),
    }


def _metrics(record: Report, analysis: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": 1,
        "kind": record.kind,
        "name": record.name,
        "primary_metric": record.primary_metric,
        "rows": record.rows,
        "before": record.before,
        "after": record.after,
        "difference": record.difference,
        "intervals": {name: list(ends) for name, ends in record.intervals.items()},
        "verdict": {"word": record.verdict, **{name: analysis["verdict"][name] for name in ("changed", "p_value", "detectable")}},
    }


def versions() -> dict[str, str]:
    """Return the versions of what decides a run's result."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _show(record: Report, told: dict[str, Any], chart: bytes) -> None:
    """Create the artifacts of the Prefect UI; what came from outside is escaped."""
    name = slug(record.name).lower().replace(".", "-").replace("_", "-")
    create_table_artifact(
        key=f"{name}-metrics",
        description=escape_markdown(told["outcome"]),
        table=[
            {
                "Metric": charts.title(entry["name"]),
                "Before": f"{entry['before']:.4f}",
                "After": f"{entry['after']:.4f}",
                "Difference": f"{entry['difference']:+.4f}",
                "95 % interval": story.interval(entry),
            }
            for entry in told["metrics"]
        ],
    )
    picture = f"data:image/png;base64,{base64.b64encode(chart).decode()}"
    lines = [
        f"# {escape_markdown(record.name)}: before and after fine-tuning",
        escape_markdown(" ".join(filter(None, [told["outcome"], told["caution"]]))),
        f"![Scores before and after]({picture})",
        escape_markdown(told["head_note"]),
        "## Where it comes from",
        "\n".join(f"- {escape_markdown(item)}" for item in told["sources"]),
        "## Where it is",
        f"- Report: {escape_markdown(record.report)}\n- Model: {escape_markdown(record.model)}",
    ]
    create_markdown_artifact(key=f"{name}-summary", description="The run's outcome", markdown="\n\n".join(lines))
    create_image_artifact(
        key=f"{name}-scores",
        description="Scores before and after",
        image_url=picture,
    )
