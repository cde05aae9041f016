"""The steps `evaluate-baseline` and `evaluate-fine-tuned`: the test split, scored before and after training."""

import functools
import tempfile
from pathlib import Path
from typing import Any

from tasks.champions import Champion
from tasks.compute.client import ComputeProcess
from tasks.config import ExperimentConfig
from tasks.models import model_folder
from tasks.progress import EventSink
from tasks.records import Checkpoint, DatasetRef, Scores
from tasks.steps import Run, Step, read_json, step, write_json
from tasks.tokenization import tokenize
from tasks.trained import read_trained

_READS = ("kind", "seed", "model.trust_remote_code", "model.allow_pickle", "training.device", "training.precision")
_CODE = ("tasks.compute.predict",)


@step("evaluate-baseline", reads=(*_READS, "model", "inputs.model_identity"), code=_CODE)
def evaluate_baseline(run: Run, folder: Path, *, dataset: DatasetRef, tokens: DatasetRef, compute: ComputeProcess) -> Scores:
    """Score the untouched model: its weights as they are, its head too unless it has none that fits."""
    model = model_folder(run.config.model, run.inputs.model_identity, weights=True)
    return _evaluate(run, folder, evaluate_baseline, dataset, tokens, model, compute, trained=False)


@step("evaluate-fine-tuned", reads=_READS, code=_CODE)
def evaluate_fine_tuned(
    run: Run, folder: Path, *, dataset: DatasetRef, tokens: DatasetRef, checkpoint: Checkpoint, compute: ComputeProcess
) -> Scores:
    """Score the fine-tuned model on the same rows."""
    model = run.store.fetch(checkpoint.key) / "model"
    return _evaluate(run, folder, evaluate_fine_tuned, dataset, tokens, model, compute, trained=True)


@step(
    "evaluate-champion", reads=("kind", "seed", "training.device", "training.precision"), code=(*_CODE, "tasks.compute.tokenize")
)
def evaluate_champion(run: Run, folder: Path, *, dataset: DatasetRef, champion: Champion, compute: ComputeProcess) -> Scores:
    """Score the champion on the same rows: with its own tokenizer, settings and calibration, as it is in production.

    It is judged as the others are, see `Kind.judged_by`.
    """
    trained = read_trained(run.store.fetch(champion.key))
    mine = run.model_copy(update={"config": _judged_alike(run, trained.config)})
    shared = {
        "kind_name": run.kind_name,
        "labels": read_json(run.store.fetch(dataset.key) / "info.json")["labels"],
        "dataset": str(run.store.fetch(dataset.key)),
        "model": str(trained.model),
        "remote_code": trained.config.model.trust_remote_code,
    }
    with tempfile.TemporaryDirectory(prefix="finetune-flows-") as tokens:
        settings = tokenize.settings(mine)
        compute.request("tokenize", {**shared, "settings": settings, "output": tokens, "splits": ["test"]})
        answer: dict[str, Any] = compute.request(
            "evaluate",
            {
                **shared,
                "settings": evaluate_fine_tuned.settings(mine),
                "tokens": tokens,
                "output": str(folder),
                "trained": True,
                "seed": run.config.seed,
                "device": run.config.training.device,
                "precision": run.config.training.precision,
                "allow_pickle": False,
                "calibration": champion.calibration,
                "own_labels": trained.labels,
            },
            on_event=EventSink("evaluate-champion"),
        )
    write_json(folder / "metrics.json", answer["metrics"])
    return Scores(**answer)


def _judged_alike(run: Run, own: ExperimentConfig) -> ExperimentConfig:
    """Return the champion's configuration, with the settings of the run by which answers are judged."""
    settings, here = own.model_dump(), run.config.model_dump()
    for name in run.kind.judged_by:
        *groups, last = name.split(".")
        place, value = (functools.reduce(dict.__getitem__, groups, values) for values in (settings, here))
        place[last] = value[last]
    return type(own).model_validate(settings)


def _evaluate(
    run: Run,
    folder: Path,
    step: Step[Scores],
    dataset: DatasetRef,
    tokens: DatasetRef,
    model: Path,
    compute: ComputeProcess,
    *,
    trained: bool,
) -> Scores:
    config = run.config
    answer: dict[str, Any] = compute.request(
        "evaluate",
        {
            "kind_name": run.kind_name,
            "settings": step.settings(run),
            "labels": read_json(run.store.fetch(dataset.key) / "info.json")["labels"],
            "dataset": str(run.store.fetch(dataset.key)),
            "tokens": str(run.store.fetch(tokens.key)),
            "model": str(model),
            "output": str(folder),
            "trained": trained,
            "seed": config.seed,
            "device": config.training.device,
            "precision": config.training.precision,
            "allow_pickle": config.model.allow_pickle,
            "remote_code": config.model.trust_remote_code,
        },
        on_event=EventSink(step.name),
    )
    write_json(folder / "metrics.json", answer["metrics"])
    return Scores(**answer)
