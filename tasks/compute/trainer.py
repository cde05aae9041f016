"""Trainer as this project uses it: its own order of rows, its own evaluation, and the best epoch's weights kept aside."""

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from transformers import PreTrainedModel, Trainer

from tasks.compute.models import Hardware
from tasks.compute.predict import MODEL_COLUMNS, predict_rows, score
from tasks.compute.ranks import Ranks
from tasks.compute.sampler import LengthGroupedSampler, RankBatches
from tasks.kinds.kind import Array, Kind
from tasks.metrics import column_sums


class EvaluationStopped(Exception):
    """A stop was asked for while validation was scored; the epoch's last step is done, its score is not."""


class KindTrainer(Trainer):
    """Trainer with our order of rows and with the same evaluation as before and after training.

    `batch_size` rows are one optimizer step, in however many parts of `per_device_train_batch_size` rows it is computed, in
    however many processes.
    """

    def __init__(
        self,
        *,
        kind: Kind,
        labels: Sequence[str],
        hardware: Hardware,
        ranks: Ranks,
        batch_size: int,
        best: "BestWeights",
        **arguments: Any,
    ) -> None:
        train, validation = arguments["train_dataset"], arguments["eval_dataset"]
        self.kind, self.labels, self.hardware, self.validation = kind, labels, hardware, validation
        self.ranks, self.batch_size, self.best = ranks, batch_size, best
        self.lengths = np.array(train["length"][:])
        self.should_stop: Callable[[], bool] = lambda: False
        self._rows_of_step = 0
        self._rows_of_parts: Iterator[int] = iter(())
        arguments["train_dataset"] = train.select_columns([name for name in MODEL_COLUMNS if name in train.column_names])
        # Trainer would else take a loss that is a mean for a sum, and scale it by the number of parts.
        arguments["model"].accepts_loss_kwargs = False
        super().__init__(**arguments)

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler:
        return LengthGroupedSampler(self.lengths, self.batch_size, self.args.seed)

    def get_train_dataloader(self) -> Any:
        """Return the batches; of several processes each gets its own rows of every batch."""
        if self.ranks.count == 1:
            return super().get_train_dataloader()
        batches = RankBatches(self._get_train_sampler(), self.args.per_device_train_batch_size, self.ranks.rank, self.ranks.count)
        loader = torch.utils.data.DataLoader(
            cast("torch.utils.data.Dataset[Any]", self.train_dataset),
            batch_sampler=batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        # As Trainer has it prepared, but for one process: what is shared out already must not be shared out once more.
        return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Count the rows of an optimizer step, in all processes and in each part of this one's."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        step = self.state.global_step % math.ceil(len(self.lengths) / self.batch_size)
        self._rows_of_step = min(self.batch_size, len(self.lengths) - step * self.batch_size)
        left, rows = len(range(self.ranks.rank, self._rows_of_step, self.ranks.count)), []
        for part in samples:
            # None left: the part only keeps company with those of other processes.
            rows.append(min(left, len(part["input_ids"])))
            left -= rows[-1]
        self._rows_of_parts = iter(rows)
        return samples, items

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        """Weigh a part of a step by its rows, for the step's mean loss.

        Trainer adds up the parts and divides by their number; the mean over the processes is taken of the gradients.
        """
        found = super().compute_loss(model, inputs, *arguments, **options)
        parts = self.current_gradient_accumulation_steps * self.ranks.count
        weight = next(self._rows_of_parts) * parts / self._rows_of_step
        return (found[0] * weight, *found[1:]) if isinstance(found, tuple) else found * weight

    def _finalize_training(self, *arguments: Any) -> Any:
        """Sum up the loss since the last entry of the log over all processes, as Trainer does for each entry."""
        self._tr_loss.fill_(float(self.ranks.sum(np.array(self._tr_loss.item()))) / self.ranks.count)
        return super()._finalize_training(*arguments)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Score validation and keep the weights if they are the best so far.

        Raises:
            EvaluationStopped: a stop was asked for meanwhile.
        """
        scores = self._score_alone() if self.ranks.count == 1 else self._score_together()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        earlier = [rank(self.kind, entry) for entry in evaluations(self.kind, self.state.log_history)]
        if self.ranks.first and (not earlier or rank(self.kind, metrics) > max(earlier)):
            self.best.keep(cast(PreTrainedModel, self.model), self.state.global_step)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _score_alone(self) -> dict[str, float]:
        predictions, references = self._predict(self.validation)
        return score(self.kind, predictions, references, self.labels)

    def _score_together(self) -> dict[str, float]:
        """Score some rows in each process: metrics are functions of sums over all rows, so that all get the same."""
        mine = np.arange(self.ranks.rank, len(self.validation), self.ranks.count)
        sums = None
        with contextlib.suppress(EvaluationStopped):
            # With fewer rows than processes there is none for some; the first row tells the shape, and counts for nothing.
            predictions, references = self._predict(self.validation.select(mine if len(mine) else [0]))
            sums = column_sums(self.kind, predictions.astype(np.float32), references) * (len(mine) > 0)
        if self.ranks.any(sums is None):
            raise EvaluationStopped
        assert sums is not None
        return self.kind.metrics(self.ranks.sum(sums), self.labels)

    def _predict(self, rows: Any) -> tuple[Array, Array]:
        """Return predictions and labels of rows."""
        model = cast(PreTrainedModel, self.model)
        predictions = predict_rows(self.kind, model, rows, self.data_collator, self.hardware, self._go_on)
        return predictions, np.array(rows["labels"][:])

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
