"""A number per row.

A head learns numbers on their own scale badly: its weights begin near 0 and move by about the learning rate in a step, whatever
the numbers' size. So it learns how many standard deviations of the train split a number is from their mean; both are kept in
the model's configuration, as `target_mean` and `target_sd`, and give predictions their scale again.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tasks.data.arrays import as_array
from tasks.data.files import Part
from tasks.data.values import Form
from tasks.kinds.kind import Array, Metrics
from tasks.problems.problem import Problem, name_labels, own_labels, unnamed
from tasks.scoring.regression import regression_analysis, regression_metrics, regression_statistics

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


class Regression(Problem):
    """See `Problem`; a row's label is a number, and so is what is kept of its logit."""

    form: ClassVar[Form] = "number"
    primary_metric: ClassVar[str] = "r2"
    # The training loss is on the head's scale.
    loss_metric: ClassVar[str | None] = None
    metric_names: ClassVar[frozenset[str]] = frozenset("r2 pearson mae rmse mse".split())
    right_or_wrong: ClassVar[bool] = False
    simplest: ClassVar[str] = "mean"
    output: ClassVar[str] = "numbers"
    usage: ClassVar[str] = (
        'from transformers import pipeline\n\nrun = pipeline("text-classification", "path/to/this/folder")'
        '\nnumber = run("A text.")[0]["score"] * run.model.config.target_sd + run.model.config.target_mean'
    )

    def quickstart(self) -> Part:
        """Return documentation of operations, with the number of members that a request must have."""
        from tasks.data.quickstart.operation_facts import required_part

        return required_part()

    def head_fits(self, config: "PretrainedConfig", labels: Sequence[str]) -> bool:
        """Tell whether the head has one output, and was not trained to say yes or no."""
        return len(own_labels(config)) == 1 and config.problem_type in (None, "regression")

    def set_up(self, config: "PretrainedConfig", labels: Sequence[str]) -> None:
        """See `Problem`."""
        name_labels(config, unnamed(1))
        config.problem_type = "regression"

    def start(self, model: "PreTrainedModel", features: "datasets.Dataset", *, fresh: bool) -> "datasets.Dataset":
        """Give a fresh head the scale of the train split's numbers; return features with labels on the head's scale.

        A head of the model's own keeps its scale: the numbers' own, if it says none.
        """
        numbers = as_array(features, "labels").astype(np.float64)
        # Of equal numbers the deviation is 0, or what rounding makes of it.
        deviation = float(numbers.std()) if np.ptp(numbers) else 1.0
        mean, deviation = (float(numbers.mean()), deviation) if fresh else _scale(model.config)
        model.config.target_mean, model.config.target_sd = mean, deviation
        return features.remove_columns("labels").add_column("labels", (numbers - mean) / deviation)

    def reduce(self, logits: "torch.Tensor", config: "PretrainedConfig") -> Array:
        """Return numbers of shape (batch,) in float64, on the scale of the dataset."""
        mean, deviation = _scale(config)
        numbers: Array = logits.float().cpu().numpy()[:, 0].astype(np.float64) * deviation + mean
        return numbers

    def prior(self, values: Sequence[Any], labels: Sequence[str]) -> Array:
        """Return the mean, shape ()."""
        return np.asarray(np.mean(values, dtype=np.float64))

    def statistics(self, outputs: Array, values: Sequence[Any]) -> Array:
        """See `regression_statistics`."""
        return regression_statistics(outputs, np.asarray(values))

    def metrics(self, sums: Array, labels: Sequence[str]) -> Metrics:
        """See `regression_metrics`."""
        return regression_metrics(sums)

    def row_scores(self, outputs: Array, values: Sequence[Any]) -> Array:
        """Return how far each prediction is off, below 0."""
        scores: Array = -np.abs(outputs - np.asarray(values))
        return scores

    def table(self, outputs: Array, values: Sequence[Any], labels: Sequence[str]) -> "dict[str, pa.Array]":
        """Return `label` and `prediction`, numbers."""
        import pyarrow as pa

        return {"label": pa.array(values, pa.float64()), "prediction": pa.array(outputs, pa.float64())}

    def prediction_table(self, outputs: Array, labels: Sequence[str]) -> "dict[str, pa.Array]":
        """Return `prediction`, a number."""
        import pyarrow as pa

        return {"prediction": pa.array(outputs, pa.float64())}

    def shown_label(self, value: Any, labels: Sequence[str]) -> str:
        """Return the number."""
        return f"{value:.6g}"

    def shown_prediction(self, entry: Mapping[str, Any]) -> str:
        """Return the predicted number."""
        return f"{entry['prediction']:.6g}"

    def analysis(self, before: "pd.DataFrame", after: "pd.DataFrame", labels: Sequence[str]) -> dict[str, Any]:
        """See `regression_analysis`."""
        return regression_analysis(before, after)


def _scale(config: "PretrainedConfig") -> tuple[float, float]:
    """Return the mean and the standard deviation that a head's output is counted in."""
    return float(getattr(config, "target_mean", 0.0)), float(getattr(config, "target_sd", 1.0))
