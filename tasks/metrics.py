"""A kind's metrics of predictions, what is kept of them, and the same through `evaluate`.

The scripts of `evaluate` live on the Hub, so the kind's own functions are wrapped as a `Metric`.
"""

import tempfile
import uuid
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

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


def summed_statistics(kind: Kind, predictions: Predictions, rows: "datasets.Dataset") -> Array:
    """Return the sums of the kind's statistics over all rows, shape (k,): what its metrics are functions of."""
    sums: Array = sum(kind.statistics(*part).sum(0) for part in chunks(predictions, rows))
    return sums


def write_predictions(folder: Path, kind: Kind, predictions: Predictions, rows: "datasets.Dataset") -> Array:
    """Write `predictions.parquet` with the rows in their order, and `statistics.npz`; return what `summed_statistics` does.

    The columns are `id`, `score` (see `Kind.row_scores`) and those of `Kind.table`. `statistics.npz` has the rows' sufficient
    statistics as a sparse array of SciPy's, shape (rows, k): of many classes a row has few.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: pq.ParquetWriter | None = None
    with tempfile.TemporaryDirectory(prefix="finetune-flows-") as scratch, _Spool(Path(scratch)) as spool:
        for part, references in chunks(predictions, rows):
            spool.add(kind.statistics(part, references))
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
        spool.save(folder / "statistics.npz")
    return spool.sums


class _Spool:
    """Rows of statistics on their way to a file, on the disk meanwhile: in memory a million of them would be 60 MB, twice."""

    def __init__(self, scratch: Path) -> None:
        self.sums: Array = np.zeros(0)
        self._ends = array("q", [0])
        self._paths = {"data": scratch / "data", "indices": scratch / "indices"}
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> "_Spool":
        self._files = {name: path.open("wb") for name, path in self._paths.items()}
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def add(self, statistics: Array) -> None:
        """Add rows, shape (rows, k)."""
        from scipy import sparse

        found, sums = sparse.csr_array(statistics), statistics.sum(0)
        self.sums = self.sums + sums if len(self.sums) else sums
        self._ends.extend((found.indptr[1:] + self._ends[-1]).tolist())
        self._files["data"].write(found.data.astype(np.float64).tobytes())
        self._files["indices"].write(found.indices.astype(np.int32).tobytes())

    def save(self, path: Path) -> None:
        """Write all rows as `scipy.sparse.load_npz` reads them."""
        from scipy import sparse

        for file in self._files.values():
            file.flush()
        ends = np.asarray(self._ends)
        data, indices = (
            np.memmap(self._paths[name], kind, "r") if ends[-1] else np.zeros(0, kind)
            for name, kind in (("data", np.float64), ("indices", np.int32))
        )
        sparse.save_npz(path, sparse.csr_array((data, indices, ends), shape=(len(ends) - 1, len(self.sums))))


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
