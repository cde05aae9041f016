"""The command `train`: fine-tune through `Trainer`, score validation each epoch, keep the best epoch."""

import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from tasks.compute.channel import Channel
from tasks.compute.models import Hardware, load_model, load_tokenizer, set_up
from tasks.compute.predict import MODEL_COLUMNS, predict_rows, score
from tasks.errors import TrainingDiverged
from tasks.kinds import load_kind
from tasks.kinds.kind import Array, Kind

# Rows are grouped by length within so many batches: enough to pad little, few enough to keep the order random.
_BATCHES_PER_GROUP = 50
_LOG_POINTS = 100


def train(
    channel: Channel,
    *,
    kind_name: str,
    dataset: str,
    model: str,
    output: str,
    labels: list[str],
    seed: int,
    training: dict[str, Any],
    allow_pickle: bool,
    remote_code: bool,
) -> dict[str, Any]:
    """Fine-tune a model on `dataset` and save the best epoch, with its tokenizer, in `output`.

    Returns:
        dict: `steps`, `planned_steps`, `stop_reason` (`finished`, `early_stopping` or `preempted`), `best_epoch`, `validation`
        (its metrics), `history` (Trainer's log), `rows_per_s`, `seconds`, `device`. Only the first two reasons leave a model.
    """
    started = time.monotonic()
    kind = load_kind(kind_name)
    hardware = Hardware.choose(training["device"], training["precision"])
    set_up(seed)
    tokenizer = load_tokenizer(Path(model), remote_code=remote_code)
    network, _ = load_model(
        kind, Path(model), tokenizer, labels, trained=False, allow_pickle=allow_pickle, remote_code=remote_code
    )
    splits = {split: datasets.Dataset.load_from_disk(str(Path(dataset) / split)) for split in ("train", "validation")}
    with tempfile.TemporaryDirectory(prefix="finetune-flows-") as scratch:
        arguments = _arguments(kind, training, hardware, seed, len(splits["train"]), scratch)
        watch = _Watch(channel, training["batch_size"])
        callbacks: list[TrainerCallback] = [watch]
        if training["early_stopping_patience"]:
            callbacks.append(EarlyStoppingCallback(training["early_stopping_patience"]))
        trainer = _Trainer(
            kind=kind,
            labels=labels,
            hardware=hardware,
            model=network,
            args=arguments,
            train_dataset=splits["train"],
            eval_dataset=splits["validation"],
            data_collator=kind.collator(tokenizer),
            callbacks=callbacks,
        )
        # The log goes out as events.
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        state = trainer.state
        reason = _stop_reason(channel, state)
        if reason in ("finished", "early_stopping"):
            trainer.save_model(output)
            tokenizer.save_pretrained(output)
            # A pickle of the arguments: loading a published model must not need one.
            (Path(output) / "training_args.bin").unlink(missing_ok=True)
    evaluations = [entry for entry in state.log_history if f"eval_{kind.primary_metric}" in entry]
    best = max(evaluations, key=lambda entry: _rank(kind, entry), default={})
    seconds = time.monotonic() - started
    return {
        "steps": state.global_step,
        "planned_steps": state.max_steps,
        "stop_reason": reason,
        "best_epoch": best.get("epoch", 0.0),
        "validation": {name.removeprefix("eval_"): value for name, value in best.items() if name.startswith("eval_")},
        "history": state.log_history,
        "rows_per_s": watch.rows / watch.elapsed_s,
        "seconds": seconds,
        "device": str(hardware),
    }


def _arguments(kind: Kind, training: dict[str, Any], hardware: Hardware, seed: int, rows: int, scratch: str) -> TrainingArguments:
    steps = math.ceil(rows / training["batch_size"]) * training["epochs"]
    return TrainingArguments(
        output_dir=scratch,
        num_train_epochs=training["epochs"],
        learning_rate=training["learning_rate"],
        per_device_train_batch_size=training["batch_size"],
        weight_decay=training["weight_decay"],
        warmup_steps=math.ceil(steps * training["warmup_ratio"]),
        lr_scheduler_type="linear",
        optim="adamw_torch_fused" if hardware.device != "mps" else "adamw_torch",
        bf16=hardware.precision == "bf16",
        fp16=hardware.precision == "fp16",
        use_cpu=hardware.device == "cpu",
        dataloader_pin_memory=hardware.device == "cuda",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_only_model=True,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model=kind.primary_metric,
        greater_is_better=kind.primary_metric not in kind.lower_is_better,
        logging_steps=max(1, steps // _LOG_POINTS),
        # Trainer would otherwise replace a NaN in the log by the mean so far.
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        data_seed=seed,
    )


def _rank(kind: Kind, entry: dict[str, float]) -> float:
    value = entry[f"eval_{kind.primary_metric}"]
    return -value if kind.primary_metric in kind.lower_is_better else value


def _stop_reason(channel: Channel, state: TrainerState) -> str:
    if state.global_step >= state.max_steps:
        return "finished"
    return "preempted" if channel.stop_requested else "early_stopping"


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """Random order, with rows of like length side by side.

    The order depends on (seed, epoch) alone: one drawn from the global generator would shift with every dropout mask, and
    training could not be repeated from its middle.
    """

    def __init__(self, lengths: Array, batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order; Trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))
        group = self.batch_size * _BATCHES_PER_GROUP
        batches: list[Array] = []
        for start in range(0, len(order), group):
            rows = order[start : start + group]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += [rows[at : at + self.batch_size] for at in range(0, len(rows), self.batch_size)]
        # A batch that is not full comes last, else it would shift the borders of all after it.
        short = [batch for batch in batches if len(batch) < self.batch_size]
        full = [batch for batch in batches if len(batch) == self.batch_size]
        for position in rng.permutation(len(full)):
            yield from full[position].tolist()
        for batch in short:
            yield from batch.tolist()


class _Trainer(Trainer):
    """Trainer with our order of rows and with the same evaluation as before and after training."""

    def __init__(self, *, kind: Kind, labels: list[str], hardware: Hardware, **arguments: Any) -> None:
        train, validation = arguments["train_dataset"], arguments["eval_dataset"]
        self.kind, self.labels, self.hardware, self.validation = kind, labels, hardware, validation
        self.lengths = np.array(train["length"][:])
        arguments["train_dataset"] = train.select_columns([name for name in MODEL_COLUMNS if name in train.column_names])
        super().__init__(**arguments)

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler:
        return LengthGroupedSampler(self.lengths, self.args.per_device_train_batch_size, self.args.seed)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        model = cast(PreTrainedModel, self.model)
        predictions = predict_rows(self.kind, model, self.validation, self.data_collator, self.hardware)
        scores = score(self.kind, predictions, np.array(self.validation["labels"][:]), self.labels)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Watch(TrainerCallback):
    """Sends progress, notices a loss that is no number, and stops after the step in which a stop was asked for."""

    def __init__(self, channel: Channel, batch_size: int) -> None:
        self.channel, self.batch_size = channel, batch_size
        self.started = time.monotonic()
        self.loss: float | None = None
        self.learning_rate: float | None = None
        self.rows, self.elapsed_s = 0, 1e-9

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.started = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._send(state)
        if self.channel.stop_requested:
            control.should_training_stop = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Trainer comes here after a stop in mid-epoch too, and would evaluate first, which can take longer than the grace period.
        if self.channel.stop_requested and state.global_step < state.max_steps:
            control.should_evaluate = control.should_save = False

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        logs = logs or {}
        loss = logs.get("loss", logs.get("train_loss"))
        if loss is not None:
            self.loss, self.learning_rate = loss, logs.get("learning_rate", self.learning_rate)
            if not math.isfinite(loss):
                rate = f"{self.learning_rate:.3g}" if self.learning_rate is not None else "unknown"
                raise TrainingDiverged(
                    f"The loss is {loss} at optimizer step {state.global_step} with learning rate {rate}; "
                    "lower training.learning_rate or set training.precision to 'fp32'."
                )

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._send(state, last=True)

    def _send(self, state: TrainerState, *, last: bool = False) -> None:
        self.elapsed_s = max(time.monotonic() - self.started, 1e-9)
        epoch_steps = math.ceil(state.max_steps / state.num_train_epochs)
        self.rows = state.global_step * self.batch_size
        self.channel.progress(
            state.global_step,
            state.max_steps,
            last=last,
            epoch=state.global_step / epoch_steps,
            loss=self.loss,
            learning_rate=self.learning_rate,
            rows_per_s=self.rows / self.elapsed_s,
            time_left_s=self.elapsed_s / max(1, state.global_step) * (state.max_steps - state.global_step),
        )
