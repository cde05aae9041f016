"""Any number of labels per row, each decided by itself."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tasks.data.files import Batch, Part
from tasks.data.values import Form
from tasks.errors import DataError
from tasks.kinds.kind import Array, Metrics
from tasks.problems.problem import Problem, name_labels, own_labels, probability_columns, unnamed
from tasks.scoring.multilabel import THRESHOLD, multilabel_analysis, multilabel_metrics, multilabel_statistics, row_f1
from tasks.text import one_line

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig

_USUAL_SEPARATORS = ";|,/\t"


class MultiLabel(Problem):
    """See `Problem`; a row's label is a list of labels' numbers, what is kept of its logits are probabilities."""

    form: ClassVar[Form] = "labels"
    primary_metric: ClassVar[str] = "f1_micro"
    loss_metric: ClassVar[str | None] = "log_loss"
    metric_names: ClassVar[frozenset[str]] = frozenset(
        {f"f1_{mean}" for mean in ("micro", "macro", "weighted", "samples")}
        | {"subset_accuracy", "hamming_loss", "log_loss", "calibration_error", "precision", "recall", "f1"}
    )
    right_or_wrong: ClassVar[bool] = False
    simplest: ClassVar[str] = "majority"
    output: ClassVar[str] = "probabilities"
    usage: ClassVar[str] = (
        'from transformers import pipeline\n\nrun = pipeline("text-classification", "path/to/this/folder", top_k=None)'
        '\nfound = [found["label"] for found in run("A text.")[0] if found["score"] >= 0.5]'
    )

    def quickstart(self) -> Part:
        """Return documentation of operations, with what they do."""
        from tasks.data.quickstart.operation_facts import actions_part

        return actions_part()

    def adapt(self, part: Part, column: str, separator: str) -> Part:
        """Return the part with lists of labels where a cell holds several in one text; an empty text is no label."""
        if column not in part.columns:
            return part

        def read(columns: list[str]) -> Iterator[Batch]:
            row, checked = part.first_row, _Cells(part.where, column, separator)
            for batch in part.read(columns):
                cells = batch.get(column, [])
                checked.check(cells, row)
                row += len(cells)
                yield batch | ({column: [_names(cell, separator) for cell in cells]} if cells else {})
            checked.finish()

        return replace(part, read=read)

    def head_fits(self, config: "PretrainedConfig", labels: Sequence[str]) -> bool:
        """Tell whether the head was trained to decide each label by itself, and knows these in this order, or only numbers."""
        several = config.problem_type == "multi_label_classification"
        return several and own_labels(config) in (list(labels), unnamed(len(labels)))

    def set_up(self, config: "PretrainedConfig", labels: Sequence[str]) -> None:
        """See `Problem`."""
        name_labels(config, labels)
        config.problem_type = "multi_label_classification"

    def targets(self, values: Sequence[Any], labels: Sequence[str]) -> list[Any]:
        """Return 1.0 or 0.0 per label."""
        found: list[Any] = _several_hot(values, len(labels)).tolist()
        return found

    def reduce(self, logits: "torch.Tensor", config: "PretrainedConfig") -> Array:
        """Return probabilities of shape (batch, labels) in float32."""
        probabilities: Array = logits.float().sigmoid().cpu().numpy()
        return probabilities

    def prior(self, values: Sequence[Any], labels: Sequence[str]) -> Array:
        """Return the share of train that each label holds of, shape (labels,)."""
        counts = np.bincount([number for row in values for number in row], minlength=len(labels))
        shares: Array = (counts / len(values)).astype(np.float32)
        return shares

    def statistics(self, outputs: Array, values: Sequence[Any]) -> Array:
        """See `multilabel_statistics`."""
        return multilabel_statistics(outputs, _several_hot(values, outputs.shape[1]))

    def metrics(self, sums: Array, labels: Sequence[str]) -> Metrics:
        """See `multilabel_metrics`."""
        return multilabel_metrics(sums, labels)

    def row_scores(self, outputs: Array, values: Sequence[Any]) -> Array:
        """Return the F1 of each row's set of labels."""
        return row_f1(outputs, _several_hot(values, outputs.shape[1]))

    def table(self, outputs: Array, values: Sequence[Any], labels: Sequence[str]) -> "dict[str, pa.Array]":
        """Return `labels`, `predictions`, `probabilities` in the order of the labels, and that of the right decisions."""
        import pyarrow as pa

        wanted = _several_hot(values, len(labels)).astype(bool)
        likelihood = np.where(wanted, outputs.astype(np.float64), 1.0 - outputs)
        return {
            "labels": pa.array([_chosen(row, labels) for row in wanted], pa.list_(pa.string())),
            "predictions": pa.array([_chosen(row, labels) for row in outputs >= THRESHOLD], pa.list_(pa.string())),
            "probabilities": pa.array(list(outputs.astype(np.float32)), pa.list_(pa.float32())),
            "fine_score": pa.array(likelihood.mean(1)),
        }

    def prediction_table(self, outputs: Array, labels: Sequence[str]) -> "dict[str, pa.Array]":
        """Return `predictions`, lists of labels, and the probability of each label."""
        import pyarrow as pa

        chosen = pa.array([_chosen(row, labels) for row in outputs >= THRESHOLD], pa.list_(pa.string()))
        return {"predictions": chosen, **probability_columns(outputs, labels)}

    def shown_label(self, value: Any, labels: Sequence[str]) -> str:
        """Return the names of the labels."""
        return _listed([labels[number] for number in sorted(value)])

    def shown_prediction(self, entry: Mapping[str, Any]) -> str:
        """Return the names of the predicted labels."""
        return _listed(entry["predictions"])

    def analysis(self, before: "pd.DataFrame", after: "pd.DataFrame", labels: Sequence[str]) -> dict[str, Any]:
        """See `multilabel_analysis`."""
        return multilabel_analysis(before, after, labels)


def _several_hot(values: Sequence[Any], count: int) -> Array:
    found = np.zeros((len(values), count), np.float32)
    for row, numbers in enumerate(values):
        found[row, numbers] = 1.0
    return found


def _chosen(row: Array, labels: Sequence[str]) -> list[str]:
    return [label for label, is_chosen in zip(labels, row, strict=True) if is_chosen]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _names(cell: Any, separator: str) -> Any:
    return [name for part in cell.split(separator) if (name := part.strip())] if isinstance(cell, str) else cell


class _Cells:
    """Refuses cells of a part that would be read as other labels than they say."""

    def __init__(self, where: str, column: str, separator: str) -> None:
        self.where, self.column, self.separator = where, column, separator
        self.separated = False
        self.suspicion = ""

    def check(self, cells: Sequence[Any], first_row: int) -> None:
        """Check a batch.

        Raises:
            DataError: names the row, the value and the remedy.
        """
        for row, cell in enumerate(cells, first_row):
            if isinstance(cell, list) and len(cell) > 1 and len(set(map(repr, cell))) < len(cell) and all(map(_is_flag, cell)):
                raise self._fault(
                    row, cell, "which seems to say of each label whether it holds; list the names of those that do."
                )
            if not isinstance(cell, str):
                continue
            if cell.strip().startswith("[") and cell.strip().endswith("]"):
                clause = f"a list in one text; write names with {self.separator!r} between them, or lists as JSON Lines."
                raise self._fault(row, cell, clause)
            self.separated = self.separated or self.separator in cell
            if not self.separated and not self.suspicion:
                self.suspicion = self._suspicion(row, cell)

    def finish(self) -> None:
        """Check what all rows say together, whatever their order.

        Raises:
            DataError: no cell holds the separator, but one holds another usual one.
        """
        if self.suspicion and not self.separated:
            raise DataError(self.suspicion)

    def _suspicion(self, row: int, cell: str) -> str:
        other = next((sign for sign in _USUAL_SEPARATORS if sign in cell), None)
        if other is None:
            return ""
        # In YAML '\t' is two characters; only between double quotes is it a tab.
        shown = json.dumps(other) if other == "\t" else repr(other)
        clause = (
            f"and no row holds data.label_separator, {self.separator!r}; set it to {shown} if that stands between labels, or "
            "give lists as JSON Lines."
        )
        return str(self._fault(row, cell, clause))

    def _fault(self, row: int, cell: Any, clause: str) -> DataError:
        return DataError(f"{self.where!r}, row {row}: column {self.column!r} is {one_line(repr(cell), 80)}, {clause}")


def _is_flag(value: Any) -> bool:
    return isinstance(value, (int, float)) and value in (0, 1)
