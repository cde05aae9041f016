"""Tests of the comparison row by row: what counts as fixed and broken, which rows are shown, and what is refused."""

from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import pandas as pd
import pytest

from tasks.comparison.analysis import EXAMPLES, analyse, examples, read_predictions, verdict_of
from tasks.kinds.text_classification import TextClassification, TextClassificationConfig
from tasks.significance import Interval

KIND = TextClassification(TextClassificationConfig(), ("a", "b"))


class Graded(TextClassification):
    """A kind whose rows score anything from 0 to 1, of which the report knows no more."""

    right_or_wrong: ClassVar[bool] = False
    neutral: ClassVar[frozenset[str]] = frozenset({"length"})

    def analysis(self, before: pd.DataFrame, after: pd.DataFrame) -> dict[str, Any]:
        return {}


GRADED = Graded(TextClassificationConfig(), ("a", "b"))


def table(labels: str, predictions: str, sure: list[float]) -> pd.DataFrame:
    """Return predictions, a letter a row, each with the probability `sure` of the right label."""
    right = np.array(list(labels)) == np.array(list(predictions))
    return pd.DataFrame(
        {
            "id": [str(number) for number in range(len(labels))],
            "score": right.astype(float),
            "label": pd.Categorical(list(labels), ["a", "b"]),
            "prediction": pd.Categorical(list(predictions), ["a", "b"]),
            "probabilities": [[value, 1 - value] for value in sure],
            "fine_score": sure,
        }
    )


BEFORE = table("aabb", "bbbb", [0.4, 0.1, 0.9, 0.9])
AFTER = table("aabb", "aaba", [0.6, 0.8, 0.9, 0.2])
ROWS = datasets.Dataset.from_dict({"text": ["one", "two\n", "three", "four"], "label": [0, 0, 1, 1]})


def test_rows_that_turned_right_are_fixed_and_rows_that_turned_wrong_broke() -> None:
    intervals = {"accuracy": Interval(-0.25, 0.75, 0.25)}
    found = analyse(KIND, BEFORE, AFTER, {"accuracy": 0.5, "log_loss": 2.0}, {"accuracy": 0.75, "log_loss": 1.0}, intervals)
    assert found["rows"] == {"rows": 4, "fixed": 2, "broken": 1, "right_before": 2, "right_after": 3}
    assert found["sources"][0] == (
        "Of 4 test rows 2 were right before and 3 are right after: 2 were fixed, 1 broke, a net of +1."
    )
    assert found["sources"][1] == "The classes that gained most rows: “a” (+2)."
    assert found["metrics"][0] == {
        **{"name": "accuracy", "before": 0.5, "after": 0.75, "difference": 0.25, "relative": 0.5},
        **{"low": -0.25, "high": 0.75, "better": "higher", "fraction": True},
    }
    assert (found["metrics"][1]["low"], found["metrics"][1]["high"]) == (None, None)
    assert found["verdict"] == {
        "word": "no evidence",
        "changed": 3,
        "p_value": 1.0,
        "detectable": pytest.approx(0.25 * (1.95996 + 0.84162), abs=1e-5),
        "comparisons": 1,
    }
    assert (found["metrics"][1]["better"], found["metrics"][1]["fraction"]) == ("lower", False)


@pytest.mark.parametrize(
    ("kind", "rows", "ends", "word"),
    [
        (KIND, {"fixed": 60, "broken": 20}, (0.1, 0.3), "improved"),
        (KIND, {"fixed": 20, "broken": 60}, (-0.3, -0.1), "regressed"),
        (KIND, {"fixed": 30, "broken": 20}, (-0.1, 0.3), "no evidence"),
        # The exact test is stricter where few rows changed, and there alone is one.
        (KIND, {"fixed": 9, "broken": 2}, (0.01, 0.1), "no evidence"),
        (GRADED, {"fixed": 9, "broken": 2}, (0.01, 0.1), "improved"),
        (GRADED, {"fixed": 5, "broken": 0}, (0.01, 0.1), "no evidence"),
    ],
)
def test_the_verdict_is_on_the_primary_metric(kind: Any, rows: dict[str, int], ends: tuple[float, float], word: str) -> None:
    assert verdict_of(kind, rows, Interval(*ends, 0.05))["word"] == word


def test_where_rows_are_not_right_or_wrong_they_score_better_or_worse() -> None:
    before, after = BEFORE.assign(score=[0.1, 0.5, 0.5, 0.2]), AFTER.assign(score=[0.3, 0.5, 0.4, 0.9])
    found = analyse(GRADED, before, after, {"length": 0.0}, {"length": 2.0}, {})
    assert found["verdict"] == {"word": "no evidence", "changed": 3, "p_value": None, "detectable": None, "comparisons": 1}
    assert found["rows"] == {"rows": 4, "fixed": 2, "broken": 1}
    assert found["sources"] == ["Of 4 test rows 2 score better after than before and 1 worse, a net of +1; 1 score the same."]
    assert (found["metrics"][0]["better"], found["metrics"][0]["relative"]) == ("neither", None)
    assert [row["id"] for row in examples(GRADED, before, after, ROWS, "fixed")] == ["3", "0"]
    assert [row["id"] for row in examples(GRADED, before, after, ROWS, "broken")] == ["2"]


def test_of_rows_that_changed_alike_those_whose_probability_moved_most_come_first() -> None:
    fixed = examples(KIND, BEFORE, AFTER, ROWS, "fixed")
    assert [row["id"] for row in fixed] == ["1", "0"]
    assert fixed[0] == {
        **{"id": "1", "texts": ["two"], "expected": "a"},
        **{"before": {"text": "b (0.90)", "score": 0.0}, "after": {"text": "a (0.80)", "score": 1.0}},
    }
    assert [row["id"] for row in examples(KIND, BEFORE, AFTER, ROWS, "broken")] == ["3"]


def test_no_more_rows_are_shown_than_a_reader_reads() -> None:
    many = EXAMPLES + 5
    rows = datasets.Dataset.from_dict({"text": ["text"] * many, "label": [0] * many})
    before, after = table("a" * many, "b" * many, [0.1] * many), table("a" * many, "a" * many, [0.9] * many)
    assert len(examples(KIND, before, after, rows, "fixed")) == EXAMPLES
    assert examples(KIND, before, after, rows, "broken") == []


@pytest.mark.parametrize("change", [{"id": ["3", "2", "1", "0"]}, {"label": pd.Categorical(list("bbbb"), ["a", "b"])}])
def test_predictions_of_other_rows_are_not_compared(change: dict[str, Any], tmp_path: Path) -> None:
    before, after = tmp_path / "before.parquet", tmp_path / "after.parquet"
    BEFORE.to_parquet(before)
    AFTER.to_parquet(after)
    assert [frame["prediction"].tolist() for frame in read_predictions(before, after)] == [list("bbbb"), list("aaba")]
    AFTER.assign(**change).to_parquet(after)
    with pytest.raises(ValueError, match="hold different rows"):
        read_predictions(before, after)
