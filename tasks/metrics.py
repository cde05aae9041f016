"""A kind's metrics of predictions, what is kept of them, and the same through `evaluate`.

The scripts of `evaluate` live on the Hub, so the kind's own functions are wrapped as a `Metric`.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.kinds.kind import Array, Kind, Predictions, Rows

if TYPE_CHECKING:
    import datasets
    import evaluate

CHUNK_ROWS = 2_000


def chunks(predictions: Predictions, rows: "datasets.Dataset") -> Iterator[tuple[Predictions, Rows]]:
    """Yield predictions and their rows in parts of at most `CHUNK_ROWS` rows, to keep memory flat."""
    for start in range(0, len(rows), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        yield {name: values[part] for name, values in predictions.items()}, rows[part]


def row_statistics(kind: Kind, predictions: Predictions, rows: "datasets.Dataset") -> Any:
    """Return the kind's statistics of all rows, a sparse array of shape (rows, k): of many classes a row has few."""
    from scipy import sparse

    return sparse.vstack([sparse.csr_array(kind.statistics(*part)) for part in chunks(predictions, rows)], format="csr")


def write_predictions(folder: Path, kind: Kind, predictions: Predictions, rows: "datasets.Dataset") -> Any:
    """Write `predictions.parquet` with the rows in their order, and `statistics.npz`; return what `row_statistics` does.

    The columns are `id`, `score` (see `Kind.row_scores`) and those of `Kind.table`. `statistics.npz` has the rows' sufficient
    statistics as a sparse array of SciPy's.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from scipy import sparse

    statistics = row_statistics(kind, predictions, rows)
    sparse.save_npz(folder / "statistics.npz", statistics)
    writer: pq.ParquetWriter | None = None
    for part, references in chunks(predictions, rows):
        columns = {
            "id": pa.array(references["id"], pa.string()),
            "score": pa.array(kind.row_scores(part, references), pa.float64()),
            **kind.table(part, references),
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(folder / "predictions.parquet", table.schema)
        writer.write_table(table)
    assert writer is not None, "a split is never empty"
    writer.close()
    return statistics


def scores_of(kind: Kind, sums: Array) -> dict[str, float]:
    """Return the metrics of column sums, shape (k,), as plain numbers."""
    return {name: float(value) for name, value in kind.metrics(sums).items()}


def make_metric(kind: Kind, cache_dir: str) -> "evaluate.Metric":
    """Return the kind's metrics as one `evaluate.Metric`.

    Its predictions are column sums of the kind's statistics over any rows, shape (k,), its references the numbers of those rows:
    all metrics are functions of the sums, and single rows would fill the disk on which `evaluate` keeps them.

    Args:
        kind: The kind.
        cache_dir: Folder of its own for what was added; parallel runs collide in the shared one.
    """
    import datasets
    import evaluate

    class KindMetric(evaluate.Metric):
        """The kind's metrics."""

        def _info(self) -> evaluate.MetricInfo:
            features = {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int64")}
            return evaluate.MetricInfo(description=f"Metrics of {kind.name}.", citation="", features=datasets.Features(features))

        def _compute(self, *, predictions: Any, references: Any, **_: Any) -> dict[str, float]:
            return scores_of(kind, np.asarray(predictions, np.float64).sum(0))

    return KindMetric(cache_dir=cache_dir, experiment_id=uuid.uuid4().hex)
