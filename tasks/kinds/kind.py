"""What varies with the problem: the protocol that each file beside this one satisfies.

A kind is bound to a configuration and, once the data is known, to the names of its classes. Its functions are pure but for
`load_model`; torch is imported inside functions only. A row is one of the dataset; a feature is one input of the model: a row may
give several (windows of a long context), or several rows one (packed blocks).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tasks.config import ExperimentConfig
    from tasks.data.columns import Column
    from tasks.data.files import Part

Array = np.ndarray[Any, np.dtype[Any]]
Metrics = dict[str, Array]
"""Metric's name to its value for each of some sums; of one alone a number."""
Rows = Mapping[str, Sequence[Any]]
"""Rows as columns: role to values, all of one length."""
Predictions = dict[str, Array]
"""What a model said of each row: name to an array whose first axis is the rows."""


@dataclass(frozen=True)
class Encoded:
    """What a batch of rows became."""

    features: dict[str, list[Any]]
    """Columns of the model's inputs: `input_ids` always, and what else the collator takes."""
    truncated: list[bool]
    """Per row, whether tokens of it were cut off."""
    rows: list[int] | None = None
    """Per feature, the position in the batch of its row; None where each row gives one, in order."""


class Kind(Protocol):
    """A kind of experiment; a class that inherits from this has the defaults of what it leaves out."""

    name: ClassVar[str]
    """The kind's name, e.g. `text-classification`."""
    config_class: "ClassVar[type[ExperimentConfig]]"
    """Its configuration."""
    reads: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Name of a step (`load-dataset`, `tokenize`, `evaluate`, `fine-tune`, `baseline`) to the settings that the kind reads in it,
    beside those that the step itself reads; `fine-tune`, which scores validation, has those of `evaluate` too. Every other
    setting has its default there."""
    judged_by: ClassVar[tuple[str, ...]] = ()
    """Settings that say how answers are judged, not how they are found: a run's hold for the champion that it meets too."""
    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    """Names of the metrics of which less is better."""
    neutral: ClassVar[frozenset[str]] = frozenset()
    """Names of the metrics of which neither more nor less is better."""
    unbounded: ClassVar[frozenset[str]] = frozenset()
    """Names of the metrics that are no fractions of 1."""
    guesses_tokens: ClassVar[bool] = False
    """Whether `guess` is about tokens, and so is made beside the tokenizer."""

    config: "ExperimentConfig"
    labels: tuple[str, ...]
    """Names of the classes in the order of their numbers; empty where there are none or the data is not loaded yet."""

    def __init__(self, config: "ExperimentConfig", labels: tuple[str, ...] = ()) -> None: ...

    @property
    def primary_metric(self) -> str:
        """The metric that chooses the epoch and heads the report; higher is better unless it is in `lower_is_better`."""
        ...

    @property
    def metric_names(self) -> frozenset[str]:
        """Names of its metrics; those of a class or part by what stands before the `/`."""
        ...

    @property
    def loss_metric(self) -> str | None:
        """The metric that is the training loss, on validation."""
        return None

    @property
    def smoothable(self) -> bool:
        """Whether the training loss is the cross-entropy of the logits with the labels that `loss` returns, but for -100."""
        return False

    @property
    def right_or_wrong(self) -> bool:
        """Whether a row's score is 0 or 1 alone."""
        return True

    @property
    def writes(self) -> int:
        """Texts that `predict` writes at a time for a row, token by token; 0 where it writes none."""
        return 0

    @property
    def simplest(self) -> str:
        """What `guess` is called, e.g. `majority`."""
        ...

    @property
    def pipeline_tag(self) -> str:
        """The Hub's name of the task, for the model card."""
        ...

    @property
    def usage(self) -> str:
        """Python lines, for the model card, that use the model in `path/to/this/folder`."""
        return f'from transformers import pipeline\n\nrun = pipeline("{self.pipeline_tag}", "path/to/this/folder")'

    # The dataset

    def columns(self) -> "tuple[Column, ...]":
        """Return the columns that the kind needs; the first of form `text` must not be empty."""
        ...

    def quickstart(self) -> "Part":
        """Return the dataset that `data.source: quickstart` stands for."""
        ...

    def adapt(self, part: "Part") -> "Part":
        """Return a file or split of the source in the flat form that `columns` describes."""
        return part

    def fault(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        """Say what is wrong with a checked row, by role: the role, and a clause such as `so its summary is missing`."""
        return None

    # Tokens

    def encode(self, tokenizer: "PreTrainedTokenizerBase", rows: Rows, *, train: bool) -> Encoded:
        """Turn rows, with their `id`, into features; `train` says whether to learn from them or to predict.

        Raises:
            DataError: a row cannot be encoded; names its id, the value and the remedy.
        """
        ...

    def collator(
        self, tokenizer: "PreTrainedTokenizerBase", *, train: bool, pad_to_multiple_of: int = 8
    ) -> Callable[[list[dict[str, Any]]], Any]:
        """Return the function that pads a list of features into a batch of tensors, see `padded`.

        What it draws at random depends on the features and the epoch's number alone, which `set_epoch`, if it has one, is given.
        """
        ...

    def loss_items(self, batch: Mapping[str, Any]) -> int:
        """Return over how many items the loss of a batch is a mean."""
        return len(batch["input_ids"])

    # The model

    def load_model(self, folder: Path, *, trained: bool, allow_pickle: bool, remote_code: bool) -> "tuple[PreTrainedModel, str]":
        """Load a model in fp32 and say where its head came from, in a word of `records.Head`.

        Args:
            folder: Its files.
            trained: Whether they are those of a model that this project has trained for the kind.
            allow_pickle: Whether pickled weights may be loaded.
            remote_code: Whether code that comes with it may be run.

        Raises:
            ModelError: the files do not make a model of this kind.
        """
        ...

    def loss(
        self, model: Any, batch: Mapping[str, Any]
    ) -> "tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]":
        """Return the loss to learn from, and the logits and labels that it is made of, where there are such.

        None takes the mean cross-entropy of the logits, shape (places, vocabulary), with the labels, shape (places,).

        Args:
            model: The model, or what wraps it to train in several processes.
            batch: What the collator made.
        """
        outputs = model(**batch)
        return outputs["loss"], outputs.get("logits"), batch.get("labels")

    def start(self, model: "PreTrainedModel", head: str, features: "datasets.Dataset") -> "datasets.Dataset":
        """Fit a model that this project has not trained to the train split, before it predicts or learns.

        Args:
            model: The model.
            head: Where its head came from, see `load_model`.
            features: Those of the train split.

        Returns:
            Dataset: the features to learn from.
        """
        return features

    def predict(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch: Mapping[str, Any]) -> Array:
        """Run the model on a batch and reduce its output at once.

        Returns:
            Array: one row per feature of the batch, e.g. probabilities (batch, classes), or texts (batch,) of dtype object.
        """
        ...

    # Predictions

    def guess(
        self,
        train: "datasets.Dataset",
        rows: "datasets.Dataset",
        features: "datasets.Dataset | None" = None,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
    ) -> Predictions:
        """Return the simplest predictions that make sense, without a model, as `gather` returns a model's.

        Args:
            train: Rows of the train split, to learn from.
            rows: The rows to predict.
            features: What these became, if `guesses_tokens`.
            tokenizer: The model's, if `guesses_tokens`.
        """
        ...

    def gather(self, outputs: Array, features: "datasets.Dataset", rows: "datasets.Dataset") -> Predictions:
        """Put what `predict` returned of all features together, row by row.

        Args:
            outputs: shape (features, …), in the order of `features`.
            features: What `encode` made, with `row`: the position in `rows` of each one's row.
            rows: The rows.
        """
        ...

    def adopt(self, predictions: Predictions, labels: Sequence[str]) -> Predictions:
        """Return predictions of a model that knows other classes, or the same in another order, as of the kind's own.

        Args:
            predictions: What `gather` returned.
            labels: Names of the model's classes, in the order of their numbers.
        """
        return predictions

    @property
    def calibrated(self) -> bool:
        """Whether predictions depend on something that is chosen on validation."""
        return False

    def calibrate(self, predictions: Predictions, rows: "datasets.Dataset") -> dict[str, float]:
        """Choose on validation what `decide` needs."""
        return {}

    def decide(self, predictions: Predictions, calibration: Mapping[str, float]) -> Predictions:
        """Apply what was chosen on validation."""
        return predictions

    def statistics(self, predictions: Predictions, rows: Rows) -> Array:
        """Return sufficient statistics per row, shape (rows, k); every metric is a function of their column sums."""
        ...

    def metrics(self, sums: Array) -> Metrics:
        """Return all metrics as functions of column sums of `statistics`, shape (…, k); each has the shape (…)."""
        ...

    def row_scores(self, predictions: Predictions, rows: Rows) -> Array:
        """Return how good each row's prediction is, shape (rows,); more is better."""
        ...

    def table(self, predictions: Predictions, rows: Rows) -> "dict[str, pa.Array]":
        """Return the columns of `predictions.parquet` beside `id` and `score`.

        A column `fine_score` orders rows whose scores changed alike.
        """
        ...

    def prediction_table(self, predictions: Predictions, rows: Rows) -> "dict[str, pa.Array]":
        """Return the columns that tell of predictions where nobody knows what is right; with the names that `table` has for them.

        A column's type depends on the kind, its settings and its labels alone: texts, lists of texts and numbers.

        Args:
            predictions: What `decide` returned.
            rows: What was read; targets are `values.blank`.
        """
        ...

    # The report

    def samples(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: "datasets.Dataset"
    ) -> list[dict[str, str]]:
        """Return texts that the model makes of some test rows, as `id`, `prompt` and `text`; the same rows whatever the model."""
        return []

    def shown_row(self, row: Mapping[str, Any]) -> tuple[list[str], str]:
        """Return a row's input texts and what was expected, as the report shows them."""
        ...

    def shown_prediction(self, entry: Mapping[str, Any]) -> str:
        """Return a row of `predictions.parquet` as the report shows it."""
        ...

    def analysis(self, before: "pd.DataFrame", after: "pd.DataFrame") -> dict[str, Any]:
        """Return what the report says beside the metrics, as JSON, of two tables of predictions of the same rows.

        Its `sources` are sentences that say where the difference comes from; its `classes` and `confusion` those of a classifier.
        """
        return {}
