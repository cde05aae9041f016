"""What is kept of answers, and what is said of the difference between two models."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tasks.encoding.spans import NO_SPAN
from tasks.scoring.answers import answers_analysis, answers_table, given_answers

CONTEXTS = ["rain falls here", "snow lies"]
SPANS = np.array([[[5, 10, 2.0], [0, 4, 1.0]], [[0, 4, 1.0], [-1, -1, NO_SPAN]]])
PREDICTIONS = {"spans": SPANS, "nulls": np.array([0.0, 3.0]), "answered": np.array([True, False])}


def test_given_answers_are_spans_of_the_context_or_empty() -> None:
    assert given_answers(SPANS, np.array([True, False]), CONTEXTS) == ["falls", ""]
    assert given_answers(SPANS, np.array([True, True]), CONTEXTS) == ["falls", "snow"]


def test_the_table_has_predictions_places_and_probabilities() -> None:
    found = pa.table(answers_table(PREDICTIONS, CONTEXTS, [["falls"], ["snow"]])).to_pylist()
    first = np.exp([2, 1, 0]) / np.exp([2, 1, 0]).sum()
    second = np.exp([1, 3]) / np.exp([1, 3]).sum()
    assert found[0] | {"n_best_probabilities": None, "probability": None, "fine_score": None} == {
        **{"answers": ["falls"], "prediction": "falls", "start": 5, "end": 10, "no_answer_margin": -2, "exact_match": 1},
        **{"n_best": ["falls", "rain"], "n_best_probabilities": None, "probability": None, "fine_score": None},
    }
    assert found[0]["n_best_probabilities"] == pytest.approx(first[:2])
    assert found[0]["probability"] == pytest.approx(first[0])
    assert found[0]["fine_score"] == pytest.approx(first[0])
    assert (found[1]["prediction"], found[1]["start"], found[1]["end"], found[1]["exact_match"]) == ("", -1, -1, 0)
    assert found[1]["n_best"] == ["snow"]
    assert found[1]["probability"] == pytest.approx(second[1])
    assert found[1]["fine_score"] == pytest.approx(second[0])


def frame(*rows: tuple[list[str], str, float]) -> pd.DataFrame:
    columns = ("answers", "prediction", "score", "exact_match")
    return pd.DataFrame([(*row, float(row[2] == 1)) for row in rows], columns=columns)


def test_the_difference_is_told_of_both_sorts_of_questions() -> None:
    before = frame((["x"], "y", 0), (["x"], "", 0), (["x y"], "x", 0.7), ([], "z", 0), ([], "", 1))
    after = frame((["x"], "x", 1), (["x"], "x", 1), (["x y"], "z", 0), ([], "", 1), ([], "", 1))
    assert answers_analysis(before, after)["sources"] == [
        "Of 3 questions with an answer 0 were answered exactly before and 2 are after; 1 before and 1 after were given an answer "
        "without a word of the right one.",
        "Of these, 1 were wrongly left without an answer before and 0 after.",
        "Of 2 questions without an answer 1 were rightly left so before and 2 after.",
    ]


def test_nothing_is_told_of_questions_that_are_not_there() -> None:
    assert len(answers_analysis(frame((["x"], "x", 1)), frame((["x"], "x", 1)))["sources"]) == 1
