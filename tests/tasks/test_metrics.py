"""Tests of the metrics through `evaluate`, and of summing statistics in chunks."""

import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import sparse
from sklearn.metrics import accuracy_score, f1_score

from tasks.kinds import load_kind
from tasks.kinds.text_classification import TextClassificationConfig
from tasks.metrics import CHUNK_ROWS, make_metric, summed_statistics, write_predictions

LABELS = ["a", "b", "c"]
KIND = load_kind("text-classification")(TextClassificationConfig(), tuple(LABELS))


def predicted(rows: int) -> tuple[dict[str, np.ndarray], datasets.Dataset]:
    rng = np.random.default_rng(rows)
    probabilities = rng.dirichlet([0.5] * 3, rows).astype(np.float32)
    columns = {"id": [f"row-{number}" for number in range(rows)], "label": rng.integers(0, 3, rows)}
    return {"probabilities": probabilities}, datasets.Dataset.from_dict(columns)


@pytest.mark.parametrize("rows", [1, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 25_000])
def test_statistics_in_chunks_equal_those_all_at_once(rows: int, tmp_path: Path) -> None:
    predictions, references = predicted(rows)
    sums = write_predictions(tmp_path, KIND, predictions, references)
    found, expected = sparse.load_npz(tmp_path / "statistics.npz"), KIND.statistics(predictions, references[:])
    np.testing.assert_array_equal(found.toarray(), expected)
    np.testing.assert_allclose(sums, expected.sum(0), rtol=1e-12)
    np.testing.assert_array_equal(sums, summed_statistics(KIND, predictions, references))
    # Its class, the predicted one, whether that is right, the nats, and the bin of the confidence.
    assert found.nnz <= 5 * rows
    written = pq.read_table(tmp_path / "predictions.parquet")
    assert written["id"].to_pylist() == references["id"][:]
    assert written["score"].to_pylist() == (predictions["probabilities"].argmax(1) == references["label"][:]).tolist()


def test_statistics_that_are_all_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(KIND), "statistics", lambda self, predictions, rows: np.zeros((len(rows["label"]), 4)))
    assert write_predictions(tmp_path, KIND, *predicted(3)).tolist() == [0, 0, 0, 0]
    assert sparse.load_npz(tmp_path / "statistics.npz").toarray().tolist() == [[0, 0, 0, 0]] * 3


def test_statistics_take_little_memory(tmp_path: Path) -> None:
    rng, kind = np.random.default_rng(0), KIND.__class__(KIND.config, tuple(map(str, range(300))))
    predictions = {"probabilities": rng.random((20_000, 300), np.float32)}
    columns = {"id": [str(number) for number in range(20_000)], "label": rng.integers(0, 300, 20_000)}
    references = datasets.Dataset.from_dict(columns)
    tracemalloc.start()
    write_predictions(tmp_path, kind, predictions, references)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sparse.load_npz(tmp_path / "statistics.npz").shape == (20_000, 916)
    assert peak < 50e6, "at once, 20,000 rows of 916 statistics would be 147 MB"


def test_statistics_of_many_rows_are_not_kept_in_memory(tmp_path: Path) -> None:
    predictions, references = predicted(200_000)
    tracemalloc.start()
    write_predictions(tmp_path, KIND, predictions, references)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6, "all at once they would be twice 12 MB more than what it takes to write them"


def add(metric: Any, statistics: np.ndarray) -> None:
    metric.add(prediction=statistics.sum(0), reference=len(statistics))


def test_the_metric_of_evaluate_gives_the_kinds_metrics_over_all_added_rows(tmp_path: Path) -> None:
    predictions, references = predicted(500)
    metric, statistics = make_metric(KIND, str(tmp_path)), KIND.statistics(predictions, references[:])
    for part in (slice(0, 7), slice(7, 300), slice(300, 500)):
        add(metric, statistics[part])
    found, chosen = metric.compute(), predictions["probabilities"].argmax(1)
    assert found == pytest.approx(KIND.metrics(statistics.sum(0)))
    assert found["accuracy"] == pytest.approx(accuracy_score(references["label"], chosen))
    assert found["f1_macro"] == pytest.approx(f1_score(references["label"], chosen, average="macro"))


def test_metrics_side_by_side_do_not_mix_their_rows(tmp_path: Path) -> None:
    right, wrong = (make_metric(KIND, str(tmp_path)) for _ in range(2))
    for _ in range(3):
        certain = {"probabilities": np.eye(3, dtype=np.float32)}
        add(right, KIND.statistics(certain, {"label": [0, 1, 2]}))
        add(wrong, KIND.statistics(certain, {"label": [1, 2, 0]}))
    assert right.compute()["accuracy"] == 1
    assert wrong.compute()["accuracy"] == 0
