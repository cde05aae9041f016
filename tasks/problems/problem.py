"""What varies with the setting `problem` of text classification: the protocol that each file beside this one satisfies."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from tasks.data.files import Part
from tasks.data.values import Form
from tasks.kinds.kind import Array, Metrics

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


class Problem(Protocol):
    """What a row's `label` is, how a model gives it, and what that is worth; pure, as a kind is."""

    form: ClassVar[Form]
    """Form of the label's column."""
    primary_metric: ClassVar[str]
    """See `Kind`."""
    loss_metric: ClassVar[str | None]
    """See `Kind`."""
    metric_names: ClassVar[frozenset[str]]
    """See `Kind`."""
    right_or_wrong: ClassVar[bool]
    """See `Kind`."""
    simplest: ClassVar[str]
    """See `Kind`."""
    output: ClassVar[str]
    """What to call that which is kept of a row's logits."""
    usage: ClassVar[str]
    """See `Kind`."""

    def quickstart(self) -> Part:
        """See `Kind`."""
        ...

    def adapt(self, part: Part, column: str, separator: str) -> Part:
        """Return the part with labels as `form` wants them.

        Args:
            part: A file or split of the source.
            column: Its column with the labels.
            separator: What stands between names in one cell.
        """
        return part

    def head_fits(self, config: "PretrainedConfig", labels: Sequence[str]) -> bool:
        """Tell whether a model's own head was made for this problem and these labels."""
        ...

    def set_up(self, config: "PretrainedConfig", labels: Sequence[str]) -> None:
        """Have a model's configuration describe a head for this problem and these labels."""
        ...

    def start(self, model: "PreTrainedModel", features: "datasets.Dataset", *, fresh: bool) -> "datasets.Dataset":
        """See `Kind.start`; `fresh` says whether the head is."""
        return features

    def targets(self, values: Sequence[Any], labels: Sequence[str]) -> list[Any]:
        """Return what the model's loss takes of rows' labels."""
        return list(values)

    def reduce(self, logits: "torch.Tensor", config: "PretrainedConfig") -> Array:
        """Return what is kept of a batch's logits, shape (batch, outputs): an array, one row per row of the batch."""
        ...

    def prior(self, values: Sequence[Any], labels: Sequence[str]) -> Array:
        """Return what to say of a row whose text nobody has read, by all labels of train: what is kept of a model's logits."""
        ...

    def statistics(self, outputs: Array, values: Sequence[Any]) -> Array:
        """See `Kind`."""
        ...

    def metrics(self, sums: Array, labels: Sequence[str]) -> Metrics:
        """See `Kind`."""
        ...

    def row_scores(self, outputs: Array, values: Sequence[Any]) -> Array:
        """See `Kind`."""
        ...

    def table(self, outputs: Array, values: Sequence[Any], labels: Sequence[str]) -> "dict[str, pa.Array]":
        """See `Kind`."""
        ...

    def prediction_table(self, outputs: Array, labels: Sequence[str]) -> "dict[str, pa.Array]":
        """See `Kind`."""
        ...

    def shown_label(self, value: Any, labels: Sequence[str]) -> str:
        """Return a row's label as the report shows it."""
        ...

    def shown_prediction(self, entry: Mapping[str, Any]) -> str:
        """See `Kind`."""
        ...

    def analysis(self, before: "pd.DataFrame", after: "pd.DataFrame", labels: Sequence[str]) -> dict[str, Any]:
        """See `Kind`."""
        ...


def probability_columns(outputs: Array, labels: Sequence[str]) -> "dict[str, pa.Array]":
    """Return a column `probability/<label>` per label, of probabilities of shape (rows, labels)."""
    import pyarrow as pa

    return {f"probability/{label}": pa.array(outputs[:, number], pa.float32()) for number, label in enumerate(labels)}


def name_labels(config: "PretrainedConfig", labels: Sequence[str]) -> None:
    """Give the outputs of a model's head their names."""
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}


def own_labels(config: "PretrainedConfig") -> list[str]:
    """Return the names of a model's own outputs, in the order of their numbers."""
    return [str(name) for _, name in sorted((int(number), name) for number, name in (config.id2label or {}).items())]


def unnamed(count: int) -> list[str]:
    """Return what transformers calls that many outputs whose names it does not know."""
    return [f"LABEL_{number}" for number in range(count)]
