"""What happens between the optimizer steps: progress, checkpoints, stops, and a loss that is no number."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.compute.channel import Channel
from tasks.compute.ranks import Ranks
from tasks.compute.trainer import KindTrainer, evaluations, rank
from tasks.errors import TrainingDiverged


class StoppedEarly(Exception):
    """Early stopping was due at the evaluation that a checkpoint lacked: not one more step may be done."""


class Watch(TrainerCallback):
    """Sends progress, and notices a loss or a gradient that is no number."""

    def __init__(self, channel: Channel, batch_size: int) -> None:
        self.channel, self.batch_size = channel, batch_size
        self.started, self.first_step = time.monotonic(), 0
        self.loss: float | None = None
        self.learning_rate: float | None = None
        self.rows, self.elapsed_s = 0, 1e-9

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock."""
        self.started, self.first_step = time.monotonic(), state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Send progress."""
        self._send(state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Send progress at each epoch's end."""
        self._send(state, last=True)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        """Keep what progress shows, and raise `TrainingDiverged` if it is no number."""
        logs = logs or {}
        loss = logs.get("loss", logs.get("train_loss"))
        if loss is None:
            return
        self.loss, self.learning_rate = loss, logs.get("learning_rate", self.learning_rate)
        self._check_finite("loss", loss, state)
        if not args.fp16:  # scaled fp16 gradients overflow now and then, and such steps are skipped
            self._check_finite("gradient's norm", logs.get("grad_norm", 0.0), state)

    def _check_finite(self, what: str, value: float, state: TrainerState) -> None:
        if not math.isfinite(value):
            rate = f"{self.learning_rate:.3g}" if self.learning_rate is not None else "unknown"
            raise TrainingDiverged(
                f"The {what} is {value} at optimizer step {state.global_step} with learning rate {rate}; "
                "lower training.learning_rate or set training.precision to 'fp32'."
            )

    def _send(self, state: TrainerState, *, last: bool = False) -> None:
        self.elapsed_s = max(time.monotonic() - self.started, 1e-9)
        done = state.global_step - self.first_step
        self.rows = done * self.batch_size
        self.channel.progress(
            state.global_step,
            state.max_steps,
            last=last,
            epoch=state.global_step / steps_per_epoch(state),
            loss=self.loss,
            learning_rate=self.learning_rate,
            rows_per_s=self.rows / self.elapsed_s,
            time_left_s=self.elapsed_s / max(1, done) * (state.max_steps - state.global_step),
        )


class Checkpoints(TrainerCallback):
    """Decides when Trainer saves, stops or goes on, and hands every checkpoint over whole.

    Which epoch was best, and how many evaluations ago, is read from Trainer's log, which a checkpoint holds: so a training that
    was resumed decides as one that was not.
    """

    def __init__(self, channel: Channel, folder: Path, every: int, patience: int | None, resume: str | None) -> None:
        self.channel, self.folder, self.every, self.patience, self.resume = channel, folder, every, patience, resume
        self.trainer: KindTrainer | None = None
        self.ranks = Ranks()
        self.saved_step = 0
        self.stop_reason = "finished"

    def watch(self, trainer: KindTrainer) -> None:
        """Take charge of a trainer."""
        self.trainer = trainer
        self.ranks = trainer.ranks
        trainer.should_stop = lambda: self.channel.stop_requested
        trainer.add_callback(self)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Make up for the evaluation of an epoch that was stopped at its last step."""
        assert self.trainer is not None
        self.saved_step = state.global_step
        scored = {entry["step"] for entry in evaluations(self.trainer.kind, state.log_history)}
        if state.global_step and _ends_epoch(state) and state.global_step not in scored:
            # Trainer loads them later; a stop while validation is scored would save others.
            self.trainer._load_rng_state(self.resume)
            self.trainer.evaluate()
            if self.stop_reason == "early_stopping":
                raise StoppedEarly

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save and stop if asked to; save if it is time."""
        if state.global_step >= state.max_steps:
            return
        if self.ranks.any(self.channel.stop_requested):
            self.stop_reason = "preempted"
            control.should_training_stop = True
            self._save(control)
        elif not _ends_epoch(state) and self._is_due(state):
            self._save(control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save after the epoch's evaluation, which is part of the checkpoint then; Trainer comes here after a stop too."""
        if self.stop_reason == "preempted":
            control.should_evaluate = control.should_save = False
        elif state.global_step < state.max_steps and self._is_due(state):
            self._save(control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop early if the setting says so."""
        assert self.trainer is not None
        ranks = [rank(self.trainer.kind, entry) for entry in evaluations(self.trainer.kind, state.log_history)]
        since_best = len(ranks) - 1 - ranks.index(max(ranks))
        if self.patience is not None and since_best >= self.patience and state.global_step < state.max_steps:
            self.stop_reason = "early_stopping"
            control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the checkpoint, complete by now, to where Trainer does not touch it again, and say so."""
        assert self.trainer is not None
        assert args.output_dir is not None
        self.saved_step = state.global_step
        made = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self.ranks.wait()  # until each has written its random states
        if not self.ranks.first:
            return
        check_state_files(made, self.ranks.count)
        # A pickle of the arguments, which resuming does not need.
        (made / "training_args.bin").unlink(missing_ok=True)
        self.trainer.best.copy_to(made / "best")
        kept = made.rename(self.folder / str(state.global_step))
        self.channel.send("checkpoint", step=state.global_step, folder=str(kept))

    def save_now(self) -> None:
        """Save outside of Trainer's loop: a stop came while validation was scored."""
        assert self.trainer is not None
        assert self.trainer.model is not None
        self.stop_reason = "preempted"
        self.trainer._save_checkpoint(self.trainer.model, None)
        self.on_save(self.trainer.args, self.trainer.state, self.trainer.control)

    def _is_due(self, state: TrainerState) -> bool:
        return state.global_step - self.saved_step >= self.every

    @staticmethod
    def _save(control: TrainerControl) -> None:
        # With what is summed up of the loss logged, a resumed training logs what an undisturbed one does; and weights are
        # saved only if the loss that led to them is a number.
        control.should_log = control.should_save = True


def steps_per_epoch(state: TrainerState) -> int:
    """Return the optimizer steps of an epoch."""
    return math.ceil(state.max_steps / state.num_train_epochs)


def _ends_epoch(state: TrainerState) -> bool:
    return state.global_step % steps_per_epoch(state) == 0


def check_state_files(folder: Path, processes: int) -> list[str]:
    """Return the names of a checkpoint's files but for the weights, which are all there: Trainer would not miss any.

    Raises:
        FileNotFoundError: one is missing.
    """
    random_states = ["rng_state.pth"] if processes == 1 else [f"rng_state_{number}.pth" for number in range(processes)]
    names = ["trainer_state.json", "optimizer.pt", "scheduler.pt", *random_states]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{missing[0]} is missing")
    return names


def best_evaluation(trainer: KindTrainer) -> Mapping[str, float]:
    """Return the first of the best evaluations in Trainer's log; empty if there is none."""
    return max(evaluations(trainer.kind, trainer.state.log_history), key=lambda entry: rank(trainer.kind, entry), default={})
