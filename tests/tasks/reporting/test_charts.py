"""Tests of the charts: they are pictures, whatever the labels hold."""

import io

import numpy as np
import pytest
from PIL import Image

from tasks.reporting import charts


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)


def area(png: bytes, color: str) -> int:
    """Count the pixels of a colour."""
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return int((pixels(png) == wanted).all(1).sum())


def test_bars_are_as_high_as_the_scores() -> None:
    png = charts.scores_chart({"accuracy": 0.25}, {"accuracy": 0.75})
    # The legend's patches add the same small area to both.
    assert area(png, charts.AFTER) / area(png, charts.BEFORE) == pytest.approx(3, rel=0.1)


def test_a_negative_score_is_drawn() -> None:
    png = charts.scores_chart({"matthews_correlation": -0.5}, {"matthews_correlation": 0.5})
    assert area(png, charts.BEFORE) > 1000


@pytest.mark.parametrize("labels", [["$x$", "a$b"], ["<b>", "x" * 300], ["スポーツ", "経済"], [f"class {n}" for n in range(60)]])
def test_labels_of_any_sort_are_drawn(labels: list[str]) -> None:
    matrix = np.eye(len(labels), dtype=int).tolist()
    png = charts.confusion_chart(labels, matrix, matrix)
    assert Image.open(io.BytesIO(png)).format == "PNG"


def test_the_loss_is_drawn_with_and_without_validation() -> None:
    history = [{"epoch": 0.5, "loss": 2.0}, {"epoch": 1.0, "loss": 1.0}]
    epochs = [{"epoch": 1.0, "eval_f1": 0.5, "eval_log_loss": 1.5}, {"epoch": 2.0, "eval_f1": 0.6, "eval_log_loss": 1.2}]
    none = charts.training_chart(history, 1.0, None, "f1")
    score = charts.training_chart([*history, *epochs], 1.0, None, "f1")
    both = charts.training_chart([*history, *epochs], 1.0, "log_loss", "f1")
    assert area(none, charts.AFTER) < area(score, charts.AFTER) < area(both, charts.AFTER)


def test_metric_names_are_read_as_words() -> None:
    assert charts.title("f1_weighted") == "F1 weighted"
    assert charts.title("rmse") == "RMSE"
