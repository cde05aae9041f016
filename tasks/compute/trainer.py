"""Trainer as this project uses it: its own order of rows, its own evaluation, and the best epoch's weights kept aside."""

import contextlib
import functools
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from transformers import PreTrainedModel, Trainer

from tasks.compute.dropout import fast_dropout
from tasks.compute.loss import vocabulary_loss
from tasks.compute.methods import Method
from tasks.compute.models import Hardware
from tasks.compute.predict import Predictor, model_columns, score
from tasks.compute.ranks import Ranks
from tasks.compute.sampler import LengthGroupedSampler, RankBatches
from tasks.compute.smoothing import smoothed_loss
from tasks.data.arrays import as_array
from tasks.kinds.kind import Kind, Predictions
from tasks.metrics import scores_of, summed_statistics


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
        predictor: Predictor,
        method: Method,
        label_smoothing: float,
        ranks: Ranks,
        batch_size: int,
        best: "BestWeights",
        validation: tuple[Any, Any],
        **arguments: Any,
    ) -> None:
        train = arguments["train_dataset"]
        self.kind, self.predictor, self.validation = predictor.kind, predictor, validation
        self.method, self.ranks, self.batch_size, self.best = method, ranks, batch_size, best
        self.label_smoothing = label_smoothing
        self.lengths = as_array(train, "length")
        self.should_stop: Callable[[], bool] = lambda: False
        self._items_of_step = 0
        # Tensors, for a GPU would have to be waited for: what this process's batches hold, without and with padding.
        self._tokens, self._padded_tokens = torch.zeros((), dtype=torch.long), 0
        self._items_of_parts: Iterator[int] = iter(())
        arguments["train_dataset"] = model_columns(train)
        arguments["eval_dataset"] = validation[0]
        # Trainer would else take a loss that is a mean for a sum, and scale it by the number of parts.
        arguments["model"].accepts_loss_kwargs = False
        super().__init__(**arguments)

    def train(self, *arguments: Any, **options: Any) -> Any:
        """Train, on a CPU with a dropout that is made for it."""
        model, hardware = cast(PreTrainedModel, self.model), self.predictor.hardware
        with contextlib.ExitStack() as during:
            if hardware.precision == "bf16":
                during.enter_context(_autocast(model, hardware))
            if hardware.device == "cpu":
                during.enter_context(fast_dropout())
            return super().train(*arguments, **options)

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler:
        return LengthGroupedSampler(self.lengths, self.batch_size, self.args.seed, getattr(self.data_collator, "set_epoch", None))

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
        """Count the loss's items of an optimizer step, in all processes and in each part of this one's."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        step = self.state.global_step % math.ceil(len(self.lengths) / self.batch_size)
        rows = min(self.batch_size, len(self.lengths) - step * self.batch_size)
        left, counts = len(range(self.ranks.rank, rows, self.ranks.count)), []
        for part in samples:
            # None left: the part only keeps company with those of other processes.
            counts.append(self.kind.loss_items(part) if left > 0 else 0)
            left -= len(part["input_ids"])
            self._count_tokens(part)
        self._items_of_step = int(self.ranks.sum(np.array([sum(counts)]))[0])
        self._items_of_parts = iter(counts)
        return samples, items

    def _count_tokens(self, part: dict[str, Any]) -> None:
        mask = part.get("attention_mask")
        size = part["input_ids"].numel()
        self._padded_tokens += size
        real = mask.sum() if mask is not None and mask.shape == part["input_ids"].shape else size
        self._tokens = self._tokens.to(part["input_ids"].device) + real

    def tokens_read(self) -> tuple[int, int]:
        """Return the tokens that the model read since the start, in all processes: without padding and with it."""
        real, padded = self.ranks.sum(np.array([int(self._tokens), self._padded_tokens]))
        return int(real), int(padded)

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        """Smooth the labels if that is set, and weigh a part of a step by its items, for the step's mean loss.

        Trainer adds up the parts and divides by their number; the mean over the processes is taken of the gradients.
        """
        loss, logits, labels = self.kind.loss(model, inputs)
        if loss is None or self.label_smoothing:
            assert logits is not None
            assert labels is not None
            loss = vocabulary_loss(logits, labels, keep=self.label_smoothing > 0) if loss is None else loss
            loss = smoothed_loss(loss, logits, labels, self.label_smoothing) if self.label_smoothing else loss
        parts, items = self.current_gradient_accumulation_steps * self.ranks.count, next(self._items_of_parts)
        return _weighted(loss, items * parts / max(1, self._items_of_step))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save a checkpoint's weights, those that training changes."""
        if self.method.name == "full":
            super()._save(output_dir, state_dict)
        else:
            assert output_dir is not None
            self.method.save(cast(PreTrainedModel, self.model), Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.method.name == "full":
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.method.load(cast(PreTrainedModel, self.model), Path(resume_from_checkpoint))

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
        features, rows = self.validation
        return score(self.kind, summed_statistics(self.kind, self._predict(features, rows), rows), len(rows))

    def _score_together(self) -> dict[str, float]:
        """Score some rows in each process: metrics are functions of sums over all rows, so that all get the same."""
        features, rows = self.validation
        # What is chosen on validation needs all of it, in each process.
        every = 1 if self.kind.calibrated else self.ranks.count
        mine = np.arange(self.ranks.rank % every, len(rows), every)
        # With fewer rows than processes there is none for some; the first row tells the shape, and counts for nothing.
        chosen = mine if len(mine) else np.array([0])
        sums = None
        with contextlib.suppress(EvaluationStopped):
            part = rows.select(chosen)
            sums = summed_statistics(self.kind, self._predict(_of_rows(features, chosen), part), part) * (len(mine) > 0)
        if self.ranks.any(sums is None):
            raise EvaluationStopped
        assert sums is not None
        return scores_of(self.kind, sums if every == 1 else self.ranks.sum(sums))

    def _predict(self, features: Any, rows: Any) -> Predictions:
        predictions = self.predictor(cast(PreTrainedModel, self.model), features, rows, self._go_on)
        return self.kind.decide(predictions, self.kind.calibrate(predictions, rows) if self.kind.calibrated else {})

    def _go_on(self, *_: Any, **__: Any) -> None:
        if self.should_stop():
            raise EvaluationStopped


@contextlib.contextmanager
def _autocast(model: PreTrainedModel, hardware: Hardware) -> Iterator[None]:
    """Have a model compute in bf16. Trainer would have its logits turned into fp32 too, which for a vocabulary takes long."""
    forward = model.forward

    @functools.wraps(forward)
    def lower(*arguments: Any, **options: Any) -> Any:
        with hardware.autocast():
            return forward(*arguments, **options)

    model.forward = lower
    try:
        yield
    finally:
        del model.forward


def _weighted(loss: torch.Tensor, weight: float) -> torch.Tensor:
    # The mean over no items is no number; it counts for nothing.
    return loss * weight if weight else torch.nan_to_num(loss) * 0.0


def _of_rows(features: Any, rows: "np.ndarray[Any, np.dtype[Any]]") -> Any:
    """Return the features of some rows, which are counted anew."""
    owners = as_array(features, "row")
    chosen = features.select(np.flatnonzero(np.isin(owners, rows)))
    counted = np.searchsorted(rows, as_array(chosen, "row"))
    return chosen.remove_columns("row").add_column("row", counted.tolist(), new_fingerprint=uuid.uuid4().hex)


def evaluations(kind: Kind, history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the entries of Trainer's log that score validation, oldest first."""
    return [entry for entry in history if f"eval_{kind.primary_metric}" in entry]


def rank(kind: Kind, entry: dict[str, float]) -> float:
    """Return the primary metric of an evaluation so that more is better."""
    value = entry[f"eval_{kind.primary_metric}"]
    return -value if kind.primary_metric in kind.lower_is_better else value


class BestWeights:
    """The model as it was at its best evaluation, or what of it is trained, in a folder of its own.

    Args:
        method: Says what is saved.
        root: Folder for it.
        resumed: Where a checkpoint keeps what was best until then.
    """

    def __init__(self, method: Method, root: Path, resumed: Path | None = None) -> None:
        self.method, self.root = method, root
        self.folder: Path | None = None
        if resumed is not None and resumed.is_dir():
            # The checkpoint itself may be removed for newer ones while training goes on.
            self.folder = root / "best-resumed"
            shutil.copytree(resumed, self.folder, copy_function=_link)

    def keep(self, model: PreTrainedModel, step: int) -> None:
        """Keep the model as it is at `step` instead. Always in a new folder: a checkpoint may still link to the old one."""
        old, self.folder = self.folder, self.root / f"best-{step}"
        self.method.save(model, self.folder)
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
