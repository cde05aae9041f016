"""The task `report`: writes the run's folder and shows the outcome in the Prefect UI."""

import shutil
import tempfile
from pathlib import Path

from prefect import task

from tasks.records import Contest, DatasetRef, Leads, Promotion, Report, Stage, Verdict, run_key
from tasks.reporting.artifacts import show
from tasks.reporting.pages import Pages, outcome_sentences
from tasks.steps import TASK_OPTIONS, Run, log_info


@task(name="report", task_run_name="report", **TASK_OPTIONS)
def report(
    run: Run,
    *,
    dataset: DatasetRef,
    tokens: DatasetRef,
    stage: Stage,
    verdict: Verdict,
    contest: Contest | None,
    leads: Leads | None,
    promotion: Promotion,
) -> Report:
    """Publish the run's folder: `report.html`, charts, `metrics.json`, predictions before and after, `run.json`.

    Args:
        run: The run.
        dataset: The dataset.
        tokens: Its tokens.
        stage: What was trained and scored.
        verdict: The comparison of before and after.
        contest: That with the champion, if there is one.
        leads: Those with the baselines, if there are any.
        promotion: What became of the model.
    """
    store = run.store
    key = run_key(run.name, run.id)
    used = {
        "load-dataset": dataset.key,
        "tokenize": tokens.key,
        "evaluate-baseline": stage.before.key,
        "fine-tune": stage.checkpoint.key,
        "evaluate-fine-tuned": stage.after.key,
        **({"evaluate-champion": stage.champion.key} if stage.champion else {}),
        "compare": verdict.key,
        **({"compare-champion": contest.key} if contest else {}),
        **({"compare-baselines": leads.key} if leads else {}),
        **{f"baseline-{name}": scores.key for name, scores in stage.baselines.items()},
    }
    record = Report(
        key=key,
        kind=run.kind_name,
        name=run.config.name,
        flow_run=run.name,
        report=f"{store.locate(key)}/report.html",
        model=f"{store.locate(stage.checkpoint.key)}/model",
        before=stage.before.metrics,
        after=stage.after.metrics,
        difference=verdict.difference,
        intervals=verdict.intervals,
        verdict=verdict.word,
        outcome="",
        primary_metric=run.kind.primary_metric,
        rows=stage.after.rows,
        contest=contest,
        baselines=leads.baselines if leads else {},
        promotion=promotion,
        steps=used,
        unchanged_since=_made_by_another(run, verdict),
    )
    record = record.model_copy(update={"outcome": " ".join(outcome_sentences(run.kind, stage, record))})
    if record.unchanged_since:
        log_info(unchanged(record))
    with tempfile.TemporaryDirectory(prefix="finetune-flows-") as scratch:
        folder = Path(scratch)
        pages = Pages(run, record, dataset, tokens, stage)
        pages.write(folder)
        for name, scores in (("before", stage.before), ("after", stage.after), ("champion", stage.champion)):
            if scores is not None:
                shutil.copyfile(store.fetch(scores.key) / "predictions.parquet", folder / f"predictions_{name}.parquet")
        store.publish(folder, key, record.model_dump(mode="json"), inputs=list(used.values()), made_by=run.id, own=True)
    show(record, pages)
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
