"""The step `baseline-majority` and its like: the kind's simplest guess, which needs no model."""

import functools
from pathlib import Path

from tasks.baselines.scores import score_guess
from tasks.compute.client import ComputeProcess
from tasks.models import model_folder
from tasks.progress import EventSink
from tasks.records import DatasetRef, Scores
from tasks.steps import Run, Step, read_json, step


@functools.cache
def simplest(name: str, *, about_tokens: bool) -> Step[Scores]:
    """Return the step `baseline-<name>`.

    Args:
        name: See `Kind.simplest`.
        about_tokens: See `Kind.guesses_tokens`; only such a step has tokens among its inputs.
    """

    def guess(
        run: Run, folder: Path, *, dataset: DatasetRef, compute: ComputeProcess, tokens: DatasetRef | None = None
    ) -> Scores:
        """Score the simplest guess that makes sense, on the same rows."""
        rows = run.store.fetch(dataset.key)
        labels = read_json(rows / "info.json")["labels"]
        if tokens is None:
            return score_guess(folder, made.kind(run, labels), rows)
        answer = compute.request(
            "guess",
            {
                "kind_name": run.kind_name,
                "settings": made.settings(run),
                "labels": labels,
                "dataset": str(rows),
                "tokens": str(run.store.fetch(tokens.key)),
                "model": str(model_folder(run.config.model, run.inputs.model_identity, weights=False)),
                "output": str(folder),
                "remote_code": run.config.model.trust_remote_code,
            },
            on_event=EventSink(made.name),
        )
        return Scores(**answer)

    made = step(f"baseline-{name}", reads=("kind",), code=("tasks.compute.guess",) if about_tokens else ())(guess)
    return made
