"""The step `fine-tune`: train in the compute process, with checkpoints; only a training that ended as planned is published."""

import tempfile
import time
from pathlib import Path
from typing import Any

from prefect.exceptions import TerminationSignal

from tasks.alive import says_it_uses
from tasks.checkpoints import CheckpointStore, Clock
from tasks.compute.client import ComputeProcess
from tasks.errors import CheckpointUnusable, OutOfMemory, Preempted, TrainingDiverged, TrainingStopped
from tasks.model_card import name_base, write_model_card
from tasks.models import model_folder
from tasks.progress import EventSink
from tasks.records import Checkpoint, DatasetRef
from tasks.steps import Run, log_info, log_warning, read_json, step, write_json
from tasks.trained import write_trained

# Not among them, as a run may go on with others where memory ended: `gradient_checkpointing`, which changes nothing, and
# `micro_batch`, which changes the order of sums and of random numbers alone.
_SETTINGS = (
    *"method epochs learning_rate scheduler batch_size weight_decay warmup_ratio max_grad_norm label_smoothing".split(),
    *"lora_rank lora_alpha lora_dropout lora_targets".split(),
    *"max_length early_stopping_patience precision device".split(),
    "processes",  # a checkpoint holds the random states of so many: another number could not go on from it
)

# When each training of this process began that has not come to its end: an attempt may die before its first checkpoint.
_BEGAN: dict[str, float] = {}


@step(
    "fine-tune",
    reads=("kind", "seed", "model", "inputs.model_identity", *(f"training.{name}" for name in _SETTINGS)),
    code=("tasks.compute.train",),
)
def fine_tune(run: Run, folder: Path, *, dataset: DatasetRef, tokens: DatasetRef, compute: ComputeProcess) -> Checkpoint:
    """Fine-tune the model and keep the best epoch on validation; go on from the newest checkpoint that is whole.

    Raises:
        Preempted: the run was asked to stop; a checkpoint is published.
        TrainingStopped: training ended before its planned end.
        TrainingDiverged: the loss is not finite.
        OutOfMemory: not even half a batch at once fits into memory.
        TimeLimitExceeded: it took longer than `training.time_limit_s`.
    """
    import datasets

    config = run.config
    labels = read_json(run.store.fetch(dataset.key) / "info.json")["labels"]
    arguments = {
        "kind_name": run.kind_name,
        "settings": fine_tune.settings(run),
        "labels": labels,
        "dataset": str(run.store.fetch(dataset.key)),
        "tokens": str(run.store.fetch(tokens.key)),
        "model": str(model_folder(config.model, run.inputs.model_identity, weights=True)),
        "output": str(folder / "model"),
        "seed": config.seed,
        "training": config.training.model_dump(mode="json"),
        "allow_pickle": config.model.allow_pickle,
        "remote_code": config.model.trust_remote_code,
    }
    key = fine_tune.key(run, dataset=dataset, tokens=tokens)
    with (
        tempfile.TemporaryDirectory(prefix="finetune-flows-") as scratch,
        CheckpointStore(run.store, key, log_warning, run.id) as checkpoints,
    ):
        says_it_uses(checkpoints.prefix)
        if run.refresh:
            checkpoints.clear_of_others()
        answer = _train(run, arguments | {"checkpoints": scratch}, checkpoints, compute)
        if answer["stop_reason"] == "preempted" and compute.asked_to_stop:
            raise Preempted(_preempted(answer))
    check_finished(answer)
    write_json(folder / "training_log.json", {"history": answer["history"], "device": answer["device"]})
    checkpoint = Checkpoint(**{name: answer[name] for name in Checkpoint.model_fields if name != "key"})
    write_model_card(folder / "model", run, checkpoint, dataset, labels)
    seen = [datasets.Dataset.load_from_disk(str(run.store.fetch(dataset.key) / split)) for split in ("train", "validation")]
    write_trained(folder, run, labels, seen)
    if (folder / "adapter").is_dir():
        name_base(folder / "adapter", run)
    return checkpoint


def forget_checkpoints(run: Run, checkpoint: Checkpoint) -> None:
    """Remove what only an unfinished training needs; to be called once the trained model is published."""
    CheckpointStore(run.store, checkpoint.key, log_warning).clear()


def _train(run: Run, arguments: dict[str, Any], checkpoints: CheckpointStore, compute: ComputeProcess) -> dict[str, Any]:
    """Train from the newest usable checkpoint; once more with half the rows at once where memory ends."""
    sink = EventSink("fine-tune", artifact=True)

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "checkpoint":
            checkpoints.offer(event["step"], Path(event["folder"]), clock())
        else:
            sink(event)

    began, spent_s, started = _BEGAN.setdefault(checkpoints.prefix, time.time()), 0.0, time.time()

    def clock() -> Clock:
        return Clock(began, spent_s + time.time() - started)

    training, halved = run.config.training, False
    micro_batch = training.micro_batch or training.batch_size // training.processes
    while True:
        resume = checkpoints.newest()
        if resume is not None:
            log_info(f"Resuming from the checkpoint of optimizer step {resume.step}.")
        spent_s, started = 0.0, time.time()
        if resume is not None and resume.clock is not None:
            began, spent_s = min(began, resume.clock.began), resume.clock.spent_s
        more = {"resume": str(resume.folder) if resume else None, "micro_batch": micro_batch}
        try:
            answer = compute.request(
                "train",
                arguments | more,
                on_event=on_event,
                time_limit_s=training.time_limit_s,
                stop_at=(TerminationSignal,),
            )
            _BEGAN.pop(checkpoints.prefix, None)
            return {**answer, "lost_s": max(0.0, time.time() - began - clock().spent_s)}
        except CheckpointUnusable as error:
            assert resume is not None
            log_warning(f"{error} Going back to the one before it.")
            checkpoints.discard(resume.key)
        except OutOfMemory as error:
            half = max((size for size in range(1, micro_batch // 2 + 1) if micro_batch % size == 0), default=None)
            if halved or half is None:
                raise
            log_warning(f"{error} Trying once more with {half} rows at once; the batch stays as it is.")
            micro_batch, halved = half, True
        except TrainingDiverged as error:
            checkpoints.wait()
            raise TrainingDiverged(f"{error} {_last_good(checkpoints)}") from None
        finally:
            checkpoints.wait()


def _last_good(checkpoints: CheckpointStore) -> str:
    keys = checkpoints.keys()
    return f"The last good checkpoint is {checkpoints.store.locate(keys[-1])}." if keys else "There is no checkpoint yet."


def _preempted(answer: dict[str, Any]) -> str:
    return (
        f"Stopped as asked after {answer['steps']} of {answer['planned_steps']} optimizer steps, with a checkpoint; "
        "run the same command to resume."
    )


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
