"""The task `promote`: whether the run's model becomes the champion of its name, decided by the gate and written conditionally."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from prefect import task

from blocks.errors import PointerChanged
from tasks.champions import Champion, Registry, Tick, check_fits, read_registry, write_registry
from tasks.comparison.gate import Decision, decide
from tasks.errors import RunError
from tasks.records import Checkpoint, Contest, DatasetRef, Outcome, Promotion, Scores, Stage, Verdict, run_key
from tasks.steps import TASK_OPTIONS, Run, log_info, read_json
from tasks.trained import weights_digest

_ATTEMPTS = 5


@dataclass(frozen=True)
class Standing:
    """What a run measures itself with, as the store said at one time."""

    registry: Registry
    version: str | None
    champion: Champion | None


def standings(run: Run) -> Iterator[Standing]:
    """Yield what the store says of the run's name; once more for each time that another run was faster to change it.

    Raises:
        ConfigError: the name belongs to another kind of model.
        RunError: other runs were faster again and again.
    """
    for _ in range(_ATTEMPTS):
        registry, version = read_registry(run.store, run.config.name)
        if registry is None:
            registry = Registry(kind=run.kind_name, primary_metric=run.kind.primary_metric)
        check_fits(registry, run.kind_name, run.config)
        yield Standing(registry, version, registry.met_by(run.id))
        log_info(f"The champion of {run.config.name!r} was changed by another run meanwhile; comparing with the new one.")
    raise RunError(f"The champion of {run.config.name!r} was changed by other runs {_ATTEMPTS} times; start the run again.")


@task(name="promote", task_run_name="promote", **TASK_OPTIONS)
def promote(
    run: Run,
    standing: Standing,
    *,
    dataset: DatasetRef,
    stage: Stage,
    verdict: Verdict,
    contest: Contest | None,
) -> Promotion | None:
    """Decide, and write it down; None if another run was faster, and it has to be compared with that one's champion.

    Args:
        run: The run.
        standing: What the store said when the comparisons were begun.
        dataset: The dataset.
        stage: What was trained and scored.
        verdict: The comparison with the untouched model.
        contest: That with the champion, if there is one.
    """
    registry, name = standing.registry, run.kind.primary_metric
    before, checkpoint, after, others = stage.before, stage.checkpoint, stage.after, stage.others
    noise = statistics.stdev([after.metrics[name], *(scores.metrics[name] for scores in others)]) if others else None
    if (done := registry.tick_of(run.id)) is not None:
        return Promotion(outcome=done.outcome, reasons=done.reasons, noise=noise, champion=standing.champion is not None)
    model = _as_champion(run, checkpoint, after)
    if standing.champion is not None and standing.champion.digest == model.digest:
        same = "It is the champion already: nothing has changed since."
        return Promotion(outcome="held", reasons=[same], noise=noise, champion=True)
    decision = _decide(run, registry, model, verdict, contest)
    passes = decision.passes and run.config.gate.mode == "promote"
    outcome: Outcome = "held" if not passes else "first champion" if standing.champion is None else "promoted"
    tick = Tick(
        at=model.since,
        outcome=outcome,
        reasons=decision.reasons,
        run=run.name,
        run_id=run.id,
        model=model.training,
        weights=model.digest,
        champion=standing.champion.training if standing.champion else "",
        metric=name,
        untouched=before.metrics[name],
        challenger=after.metrics[name],
        compared=contest.champion[name] if contest else None,
        difference=contest.difference[name] if contest else None,
        interval=contest.intervals.get(name) if contest else None,
        rows=after.rows,
        test=dataset.test_digest,
        noise=noise,
    )
    promotion = Promotion(outcome=outcome, reasons=decision.reasons, noise=noise, champion=standing.champion is not None)
    if registry.ticks and _says_the_same(registry.ticks[-1], tick):
        return promotion
    try:
        write_registry(run.store, run.config.name, registry.after(tick, model if passes else None), standing.version)
    except PointerChanged:
        return None
    for line in (f"{outcome[:1].upper()}{outcome[1:]}.", *decision.reasons):
        log_info(line)
    return promotion


def _decide(run: Run, registry: Registry, model: Champion, verdict: Verdict, contest: Contest | None) -> Decision:
    kind, gate = run.kind, run.config.gate
    untouched = read_json(run.store.fetch(verdict.key) / "analysis.json")
    champion = read_json(run.store.fetch(contest.key) / "analysis.json") if contest else None
    decision = decide(kind, gate, untouched, champion)
    if (then := registry.rolled_back(model)) is not None:
        return Decision(False, [f"This very model was rolled back ({then.at[:10]}); 'champion promote' brings it back."])
    if decision.passes and gate.mode == "report":
        return Decision(True, [*decision.reasons, "It passes the gate, but gate.mode is 'report': the champion stays."])
    return decision


def _as_champion(run: Run, checkpoint: Checkpoint, after: Scores) -> Champion:
    manifest = run.store.inspect(checkpoint.key)
    assert manifest is not None, "it was published a moment ago"
    return Champion(
        key=checkpoint.key,
        run=run.name,
        run_id=run.id,
        report=run_key(run.name, run.id),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        scores=after.key,
        calibration=after.calibration,
        digest=weights_digest(manifest),
    )


def _says_the_same(last: Tick, tick: Tick) -> bool:
    """Tell whether nothing has changed since the last tick: the same model, measured in the same way, with the same outcome."""
    same = {"at", "run", "run_id"}
    return last.outcome == "held" and last.model_dump(exclude=same) == tick.model_dump(exclude=same)
