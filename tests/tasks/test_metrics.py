"""Tests of the metrics through `evaluate`, and of summing statistics in chunks."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from tasks.kinds import load_kind
from tasks.metrics import column_sums, make_metric

KIND = load_kind("text-classification")
LABELS = ["a", "b", "c"]


def scores_and_references(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rows)
    return rng.dirichlet([0.5] * 3, rows).astype(np.float32), rng.integers(0, 3, rows)


@pytest.mark.parametrize("rows", [1, 9_999, 10_000, 10_001, 25_000])
def test_sums_in_chunks_equal_the_sums_all_at_once(rows: int) -> None:
    predictions, references = scores_and_references(rows)
    found = column_sums(KIND, predictions, references)
    whole = KIND.statistics(predictions, references).sum(0)
    assert found[:-1].tolist() == whole[:-1].tolist()
    assert found[:-1].sum() == rows
    assert found[-1] == pytest.approx(whole[-1], rel=1e-12)


def test_the_metric_of_evaluate_gives_the_kinds_metrics_over_all_added_batches(tmp_path: Path) -> None:
    predictions, references = scores_and_references(500)
    metric = make_metric(KIND, LABELS, str(tmp_path))
    for part in (slice(0, 7), slice(7, 300), slice(300, 500)):
        metric.add_batch(predictions=predictions[part], references=references[part])
    found = metric.compute()
    assert found == pytest.approx(KIND.metrics(KIND.statistics(predictions, references).sum(0), LABELS))
    assert found["accuracy"] == pytest.approx(accuracy_score(references, predictions.argmax(1)))
    assert found["f1_macro"] == pytest.approx(f1_score(references, predictions.argmax(1), average="macro"))


def test_metrics_side_by_side_do_not_mix_their_rows(tmp_path: Path) -> None:
    right, wrong = (make_metric(KIND, LABELS, str(tmp_path)) for _ in range(2))
    for _ in range(3):
        right.add_batch(predictions=np.eye(3, dtype=np.float32), references=np.array([0, 1, 2]))
        wrong.add_batch(predictions=np.eye(3, dtype=np.float32), references=np.array([1, 2, 0]))
    assert right.compute()["accuracy"] == 1
    assert wrong.compute()["accuracy"] == 0
