"""One of several classes per row."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tasks.data.files import Part
from tasks.data.values import Form
from tasks.kinds.kind import Array, Metrics
from tasks.problems.problem import Problem, name_labels, own_labels, probability_columns, unnamed
from tasks.scoring.classes import class_analysis, class_metrics, class_statistics

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig


class SingleLabel(Problem):
    """See `Problem`; a row's label is a class's number, what is kept of its logits are probabilities."""

    form: ClassVar[Form] = "label"
    primary_metric: ClassVar[str] = "accuracy"
    loss_metric: ClassVar[str | None] = "log_loss"
    metric_names: ClassVar[frozenset[str]] = frozenset(
        "accuracy f1_weighted f1_macro matthews_correlation log_loss calibration_error precision recall f1".split()
    )
    right_or_wrong: ClassVar[bool] = True
    simplest: ClassVar[str] = "majority"
    output: ClassVar[str] = "probabilities"
    usage: ClassVar[str] = 'from transformers import pipeline\n\nrun = pipeline("text-classification", "path/to/this/folder")'

    def quickstart(self) -> Part:
        """Return documentation of operations, with the family of their service."""
        from tasks.data.quickstart.families import families_part

        return families_part()

    def head_fits(self, config: "PretrainedConfig", labels: Sequence[str]) -> bool:
        """Tell whether the head was trained to choose one class, and knows the same names in this order, or only numbers."""
        one = config.problem_type in (None, "single_label_classification")
        return one and own_labels(config) in (list(labels), unnamed(len(labels)))

    def set_up(self, config: "PretrainedConfig", labels: Sequence[str]) -> None:
        """See `Problem`."""
        name_labels(config, labels)
        config.problem_type = "single_label_classification"

    def reduce(self, logits: "torch.Tensor", config: "PretrainedConfig") -> Array:
        """Return probabilities of shape (batch, classes) in float32."""
        probabilities: Array = logits.float().softmax(-1).cpu().numpy()
        return probabilities

    def prior(self, values: Sequence[Any], labels: Sequence[str]) -> Array:
        """Return the classes' shares of train, shape (classes,)."""
        shares: Array = (np.bincount(values, minlength=len(labels)) / len(values)).astype(np.float32)
        return shares

    def statistics(self, outputs: Array, values: Sequence[Any]) -> Array:
        """See `class_statistics`."""
        return class_statistics(outputs, np.asarray(values))

    def metrics(self, sums: Array, labels: Sequence[str]) -> Metrics:
        """See `class_metrics`."""
        return class_metrics(sums, labels)

    def row_scores(self, outputs: Array, values: Sequence[Any]) -> Array:
        """Return 1 where the most probable class is right."""
        right: Array = outputs.argmax(1) == np.asarray(values)
        return right.astype(float)

    def table(self, outputs: Array, values: Sequence[Any], labels: Sequence[str]) -> "dict[str, pa.Array]":
        """Return `label`, `prediction`, `probabilities` in the order of the labels, and that of the right label."""
        import pyarrow as pa

        references, names = np.asarray(values), pa.array(labels, pa.string())
        return {
            "label": pa.DictionaryArray.from_arrays(pa.array(references, pa.int32()), names),
            "prediction": pa.DictionaryArray.from_arrays(pa.array(outputs.argmax(1), pa.int32()), names),
            "probabilities": pa.array(list(outputs.astype(np.float32)), pa.list_(pa.float32())),
            "fine_score": pa.array(outputs[np.arange(len(references)), references].astype(np.float64)),
        }

    def prediction_table(self, outputs: Array, labels: Sequence[str]) -> "dict[str, pa.Array]":
        """Return `prediction`, its `probability`, and that of each class."""
        import pyarrow as pa

        return {
            "prediction": pa.array([labels[number] for number in outputs.argmax(1)], pa.string()),
            "probability": pa.array(outputs.max(1), pa.float32()),
            **probability_columns(outputs, labels),
        }

    def shown_label(self, value: Any, labels: Sequence[str]) -> str:
        """Return the class's name."""
        return str(labels[value])

    def shown_prediction(self, entry: Mapping[str, Any]) -> str:
        """Return the predicted class and its probability."""
        return f"{entry['prediction']} ({max(entry['probabilities']):.2f})"

    def analysis(self, before: "pd.DataFrame", after: "pd.DataFrame", labels: Sequence[str]) -> dict[str, Any]:
        """See `class_analysis`."""
        return class_analysis(before, after)
