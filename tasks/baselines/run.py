"""All baselines of a run: computed, or found in the store."""

from collections.abc import Iterator
from typing import Any

from blocks.errors import StoreError
from tasks.baselines.linear import baseline_linear
from tasks.baselines.plan import Plan, plan
from tasks.baselines.probe import baseline_probe
from tasks.baselines.simplest import simplest
from tasks.baselines.zero_shot import baseline_zero_shot
from tasks.compute.client import ComputeProcess
from tasks.errors import Preempted
from tasks.records import DatasetRef, Scores
from tasks.steps import Run, Step, log_warning
from tasks.text import one_line

Found = tuple[dict[str, Scores], dict[str, str]]
"""Name to scores, and name of a baseline that was left out to the reason, a clause."""


def run_baselines(run: Run, *, dataset: DatasetRef, tokens: DatasetRef, compute: ComputeProcess) -> Found:
    """Score the baselines that the run's settings ask for on its test rows; one that fails is left out, with a warning.

    Raises:
        StoreError: the store failed.
        Preempted: the run was asked to stop.
    """
    planned = plan(run, dataset)
    scores, skipped = {}, dict(planned.skipped)
    for name, made, inputs in _steps(run, planned, dataset, tokens):
        found = _try(run, name, made, inputs, compute)
        if isinstance(found, Scores):
            scores[name] = found
        else:
            skipped[name] = found
    return scores, skipped


def find_baselines(run: Run, *, dataset: DatasetRef, tokens: DatasetRef, computed: bool = False) -> Found | None:
    """Return what `run_baselines` would, from the store alone; None if something is missing.

    Args:
        run: The run.
        dataset: Its dataset.
        tokens: Its tokens.
        computed: Whether it has been computed, elsewhere: what is missing then failed there, and is left out.
    """
    planned = plan(run, dataset)
    scores, skipped = {}, dict(planned.skipped)
    for name, made, inputs in _steps(run, planned, dataset, tokens):
        found = made.find(run, **inputs)
        if found is not None:
            scores[name] = found
        elif computed:
            skipped[name] = "it failed where the GPU stage ran, whose log says why"
        else:
            return None
    return scores, skipped


def _try(run: Run, name: str, made: Step[Scores], inputs: dict[str, DatasetRef], compute: ComputeProcess) -> Scores | str:
    """Return the scores, or why there are none."""
    try:
        return made(run, **inputs, compute=compute)
    except (StoreError, Preempted):
        raise
    except Exception as error:
        reason = one_line(f"it failed: {error or type(error).__name__}", 200)
        log_warning(f"Baseline {name!r} is left out: {reason}")
        return reason


def _steps(
    run: Run, planned: Plan, dataset: DatasetRef, tokens: DatasetRef
) -> Iterator[tuple[str, Step[Scores], dict[str, DatasetRef]]]:
    """Yield each baseline's name, step and inputs, in the plan's order."""
    rows, both = {"dataset": dataset}, {"dataset": dataset, "tokens": tokens}
    known: dict[str, tuple[Step[Scores], dict[str, Any]]] = {
        "linear": (baseline_linear, rows),
        "probe": (baseline_probe, both),
        "zero_shot": (baseline_zero_shot, rows),
    }
    for name in planned.wanted:
        if name in known:
            yield name, *known[name]
        else:
            kind = run.kind
            yield name, simplest(name, about_tokens=kind.guesses_tokens), both if kind.guesses_tokens else rows
