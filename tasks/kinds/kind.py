"""What varies with the problem: the protocol that each file beside this one satisfies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tasks.config import DataSettings, ExperimentConfig
    from tasks.data.rows import Column

Array = np.ndarray[Any, np.dtype[Any]]


class Kind(Protocol):
    """A kind of experiment. Its functions are pure but for `load_model`; torch is imported inside functions only."""

    @property
    def name(self) -> str:
        """The kind's name, e.g. `text-classification`."""

    @property
    def config_class(self) -> "type[ExperimentConfig]":
        """Its configuration."""

    @property
    def primary_metric(self) -> str:
        """The metric that chooses the epoch and heads the report; higher is better unless it is in `lower_is_better`."""

    @property
    def lower_is_better(self) -> frozenset[str]:
        """Names of the metrics of which less is better."""

    @property
    def pipeline_tag(self) -> str:
        """The Hub's name of the task, for the model card."""

    def columns(self, data: "DataSettings") -> "tuple[Column, ...]":
        """Return the columns that the kind needs; the first of form `text` must not be empty."""

    def load_model(
        self, folder: Path, labels: Sequence[str], *, trained: bool, allow_pickle: bool, remote_code: bool
    ) -> "tuple[PreTrainedModel, str]":
        """Load a model in fp32 and say where its head came from: `fresh`, `pretrained` or `trained`.

        Raises:
            ModelError: the files do not make a model of this kind.
        """

    def encode(
        self, tokenizer: "PreTrainedTokenizerBase", batch: Mapping[str, list[Any]], max_length: int
    ) -> tuple[dict[str, list[Any]], list[bool]]:
        """Turn rows into model inputs: columns of token ids and labels, and whether each row was truncated."""

    def collator(self, tokenizer: "PreTrainedTokenizerBase") -> Any:
        """Return the function that pads a list of encoded rows into a batch of tensors."""

    def predict(self, model: "PreTrainedModel", batch: Mapping[str, Any]) -> Array:
        """Run the model on a batch and reduce its output at once.

        Returns:
            Array: one row per row of the batch, e.g. probabilities (batch, classes).
        """

    def statistics(self, predictions: Array, references: Array) -> Array:
        """Return sufficient statistics per row, shape (rows, k); every metric is a function of their column sums.

        Args:
            predictions: What `predict` returns, over any number of rows.
            references: The rows' labels, shape (rows,).
        """

    def metrics(self, sums: Array, labels: Sequence[str]) -> dict[str, float]:
        """Return all metrics as functions of the column sums of `statistics`, shape (k,)."""
