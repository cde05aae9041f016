"""Trainer as this project uses it: its own order of rows, its own evaluation, and the best epoch's weights kept aside."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel, Trainer

from tasks.compute.models import Hardware
from tasks.compute.predict import MODEL_COLUMNS, predict_rows, score
from tasks.compute.sampler import LengthGroupedSampler
from tasks.kinds.kind import Kind


class EvaluationStopped(Exception):
    """A stop was asked for while validation was scored; the epoch's last step is done, its score is not."""


class KindTrainer(Trainer):
    """Trainer with our order of rows and with the same evaluation as before and after training.

    `batch_size` rows are one optimizer step, in however many parts of `per_device_train_batch_size` rows it is computed.
    """

    def __init__(
        self, *, kind: Kind, labels: Sequence[str], hardware: Hardware, batch_size: int, best: "BestWeights", **arguments: Any
    ) -> None:
        train, validation = arguments["train_dataset"], arguments["eval_dataset"]
        self.kind, self.labels, self.hardware, self.validation = kind, labels, hardware, validation
        self.batch_size, self.best = batch_size, best
        self.lengths = np.array(train["length"][:])
        self.should_stop: Callable[[], bool] = lambda: False
        self._rows_of_step = 0
        arguments["train_dataset"] = train.select_columns([name for name in MODEL_COLUMNS if name in train.column_names])
        # Trainer would else take a loss that is a mean for a sum, and scale it by the number of parts.
        arguments["model"].accepts_loss_kwargs = False
        super().__init__(**arguments)

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler:
        return LengthGroupedSampler(self.lengths, self.batch_size, self.args.seed)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Count the rows of an optimizer step."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._rows_of_step = sum(len(part["input_ids"]) for part in samples)
        return samples, items

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        """Weigh a part of a step by its rows: Trainer adds up the parts and divides by their number, for the step's mean loss."""
        found = super().compute_loss(model, inputs, *arguments, **options)
        weight = len(inputs["input_ids"]) * self.current_gradient_accumulation_steps / self._rows_of_step
        return (found[0] * weight, *found[1:]) if isinstance(found, tuple) else found * weight

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Score validation and keep the weights if they are the best so far.

        Raises:
            EvaluationStopped: a stop was asked for meanwhile.
        """
        model = cast(PreTrainedModel, self.model)
        predictions = predict_rows(self.kind, model, self.validation, self.data_collator, self.hardware, self._go_on)
        scores = score(self.kind, predictions, np.array(self.validation["labels"][:]), self.labels)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        earlier = [rank(self.kind, entry) for entry in evaluations(self.kind, self.state.log_history)]
        if not earlier or rank(self.kind, metrics) > max(earlier):
            self.best.keep(model, self.state.global_step)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _go_on(self, *_: Any, **__: Any) -> None:
        if self.should_stop():
            raise EvaluationStopped


def evaluations(kind: Kind, history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the entries of Trainer's log that score validation, oldest first."""
    return [entry for entry in history if f"eval_{kind.primary_metric}" in entry]


def rank(kind: Kind, entry: dict[str, float]) -> float:
    """Return the primary metric of an evaluation so that more is better."""
    value = entry[f"eval_{kind.primary_metric}"]
    return -value if kind.primary_metric in kind.lower_is_better else value


class BestWeights:
    """The model as it was at its best evaluation, in a folder of its own.

    Args:
        root: Folder for it.
        resumed: Where a checkpoint keeps what was best until then.
    """

    def __init__(self, root: Path, resumed: Path | None = None) -> None:
        self.root = root
        self.folder: Path | None = None
        if resumed is not None and resumed.is_dir():
            # The checkpoint itself may be removed for newer ones while training goes on.
            self.folder = root / "best-resumed"
            shutil.copytree(resumed, self.folder, copy_function=_link)

    def keep(self, model: PreTrainedModel, step: int) -> None:
        """Keep the model as it is at `step` instead. Always in a new folder: a checkpoint may still link to the old one."""
        old, self.folder = self.folder, self.root / f"best-{step}"
        model.save_pretrained(self.folder)
        if old is not None:
            shutil.rmtree(old)

    def copy_to(self, folder: Path) -> None:
        """Put it into `folder`, by hard links where they can be made."""
        if self.folder is not None:
            shutil.copytree(self.folder, folder, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
