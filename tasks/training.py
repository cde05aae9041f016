"""The step `fine-tune`: train in the compute process; only a training that ended as planned is published."""

from pathlib import Path
from typing import Any

from tasks.compute.client import ComputeProcess
from tasks.errors import TrainingStopped
from tasks.model_card import write_model_card
from tasks.models import model_folder
from tasks.progress import EventSink
from tasks.records import Checkpoint, DatasetRef
from tasks.steps import Run, read_json, step, write_json

_SETTINGS = (
    "epochs learning_rate batch_size weight_decay warmup_ratio max_length early_stopping_patience precision device".split()
)


@step(
    "fine-tune",
    reads=("kind", "seed", "model", "inputs.model_identity", *(f"training.{name}" for name in _SETTINGS)),
    code=("tasks.compute.train",),
)
def fine_tune(run: Run, folder: Path, *, dataset: DatasetRef, tokens: DatasetRef, compute: ComputeProcess) -> Checkpoint:
    """Fine-tune the model and keep the best epoch on validation.

    Raises:
        TrainingStopped: it ended before its planned end.
        TrainingDiverged: the loss is not finite.
        TimeLimitExceeded: it took longer than `training.time_limit_s`.
    """
    config = run.config
    labels = read_json(run.store.fetch(dataset.key) / "info.json")["labels"]
    model = folder / "model"
    answer: dict[str, Any] = compute.request(
        "train",
        {
            "kind_name": run.kind_name,
            "dataset": str(run.store.fetch(tokens.key)),
            "model": str(model_folder(config.model, run.inputs.model_identity, weights=True)),
            "output": str(model),
            "labels": labels,
            "seed": config.seed,
            "training": config.training.model_dump(mode="json"),
            "allow_pickle": config.model.allow_pickle,
            "remote_code": config.model.trust_remote_code,
        },
        on_event=EventSink("fine-tune", artifact=True),
        time_limit_s=config.training.time_limit_s,
    )
    check_finished(answer)
    write_json(folder / "training_log.json", {"history": answer["history"], "device": answer["device"]})
    checkpoint = Checkpoint(**{name: answer[name] for name in Checkpoint.model_fields if name != "key"})
    write_model_card(model, run, checkpoint, dataset, labels)
    return checkpoint


def check_finished(answer: dict[str, Any]) -> None:
    """Let only a whole training pass: all planned steps, or an early stop by name.

    Raises:
        TrainingStopped: says after how many steps and why it ended.
    """
    whole = answer["stop_reason"] == "finished" and answer["steps"] == answer["planned_steps"]
    if not whole and not (answer["stop_reason"] == "early_stopping" and 0 < answer["steps"] < answer["planned_steps"]):
        raise TrainingStopped(
            f"Training ended after {answer['steps']} of {answer['planned_steps']} optimizer steps ({answer['stop_reason']}); "
            "its model is not used. Run the same command again."
        )
