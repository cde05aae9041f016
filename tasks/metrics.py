"""Metrics through `evaluate`, offline: its scripts live on the Hub, so the kind's own functions are wrapped as a `Metric`."""

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.kinds.kind import Array, Kind

if TYPE_CHECKING:
    import evaluate

_CHUNK_ROWS = 10_000


def column_sums(kind: Kind, predictions: Array, references: Array) -> Array:
    """Return the column sums of the kind's statistics, shape (k,), computed chunk by chunk to keep memory flat."""
    starts = range(0, len(references), _CHUNK_ROWS)
    chunks = (slice(start, start + _CHUNK_ROWS) for start in starts)
    total: Array = sum(kind.statistics(predictions[chunk], references[chunk]).sum(0) for chunk in chunks)
    return total


def make_metric(kind: Kind, labels: Sequence[str], cache_dir: str) -> "evaluate.Metric":
    """Return the kind's metrics as one `evaluate.Metric` of predictions (rows, classes) and references (rows,).

    Args:
        kind: The kind.
        labels: Class names.
        cache_dir: Folder of its own for the rows that were added; parallel runs collide in the shared one.
    """
    import datasets
    import evaluate

    class KindMetric(evaluate.Metric):
        """The kind's metrics."""

        def _info(self) -> evaluate.MetricInfo:
            features = {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
            return evaluate.MetricInfo(description=f"Metrics of {kind.name}.", citation="", features=datasets.Features(features))

        def _compute(self, *, predictions: Any, references: Any, **_: Any) -> dict[str, float]:
            scores = np.asarray(predictions, np.float32)
            return kind.metrics(column_sums(kind, scores, np.asarray(references)), labels)

    return KindMetric(cache_dir=cache_dir, experiment_id=uuid.uuid4().hex)
