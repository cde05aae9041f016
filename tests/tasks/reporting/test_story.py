"""Tests of what the report says."""

from typing import Any

import pytest

from tasks.kinds import load_kind
from tasks.kinds.text_classification import TextClassificationConfig
from tasks.records import Checkpoint, Scores
from tasks.reporting import story

KIND = load_kind("text-classification")(TextClassificationConfig())
ANALYSIS = {
    "rows": {"rows": 10, "right_before": 4, "right_after": 7, "fixed": 4, "broken": 1},
    "classes": [
        {"label": "a", "rows": 5, "fixed": 4, "broken": 0},
        {"label": "b", "rows": 5, "fixed": 0, "broken": 1},
    ],
    "resolved": [{"label": "a", "taken_for": "b", "before": 4, "after": 0}],
    "remaining": [{"label": "b", "taken_for": "a", "before": 2, "after": 3}],
}


def scores(accuracy: float, head: Any = "fresh") -> Scores:
    return Scores(metrics={"accuracy": accuracy}, rows=1200, head=head, device="cpu, fp32", seconds=1.0)


def test_the_sentence_has_both_scores_and_the_difference_and_no_judgement() -> None:
    told = story.sentence(KIND, scores(0.25), scores(0.875))
    assert told == "Accuracy on 1,200 test rows is 0.875 after fine-tuning and 0.250 before: a difference of +62.5 points."
    assert "improve" not in told.lower()


def test_the_reader_is_told_of_a_fresh_head() -> None:
    assert "no head for this task with these classes: its head is freshly" in story.head_note(scores(0.1), classes=True)
    assert "no head for this task: its head is freshly" in story.head_note(scores(0.1), classes=False)
    assert "freshly" not in story.head_note(scores(0.1, "pretrained"), classes=True)


@pytest.mark.parametrize(("head", "word"), [("warm-started", "made out of one for another task"), ("made", "made at random")])
def test_the_reader_is_told_how_a_model_was_made(head: str, word: str) -> None:
    assert word in story.head_note(scores(0.1, head), classes=False)


@pytest.mark.parametrize(
    ("changes", "check", "finding", "alarm"),
    [
        ({}, "Rows shared by splits", "none", False),
        (
            {"shared": {"train_test": {"exact": 1, "folded": 3}}},
            "Rows shared by splits",
            "3 of train in test (1 of them exactly); dropped from train (or validation)",
            False,
        ),
        (
            {"shared": {"train_test": {"exact": 1, "folded": 3}}, "duplicates": "report"},
            "Rows shared by splits",
            "3 of train in test (1 of them exactly); kept, as set",
            True,
        ),
        ({"contradictory": 2}, "Texts with contradictory labels", "2", True),
        ({"empty": {"train": 4, "test": 0}}, "Empty texts, left out", "4 in train", True),
        ({"repeated": {"train": 9, "validation": 0, "test": 0}}, "Rows repeated within a split", "9 in train", False),
        ({"classes": {"train": [100, 3]}}, "Largest to smallest class in train", "100 to 3 rows", True),
        ({"cut_from_train": ["test"]}, "Splits cut from train by hash", "test", False),
    ],
)
def test_a_data_check_says_what_was_found_and_raises_an_alarm(
    changes: dict[str, Any], check: str, finding: str, alarm: bool
) -> None:
    checks = {
        "shared": {"train_test": {"exact": 0, "folded": 0}},
        "duplicates": "drop",
        "repeated": {"train": 0, "validation": 0, "test": 0},
        "contradictory": 0,
        "empty": {"train": 0},
        "classes": {"train": [10, 9]},
        "cut_from_train": [],
        **changes,
    }
    tokens = {split: {"rows": 100, "truncated": 0} for split in ("train", "validation", "test")}
    found = {entry["check"]: entry for entry in story.findings({"checks": checks, "labels": ["a", "b"]}, tokens, 128)}
    assert (found[check]["finding"], found[check]["alarm"]) == (finding, alarm)


def test_truncation_is_told_by_split() -> None:
    checks = {
        "shared": {},
        "duplicates": "drop",
        "repeated": {"test": 0},
        "contradictory": 0,
        "empty": {},
        "classes": {"train": []},
        "cut_from_train": [],
    }
    tokens = {
        "train": {"rows": 100, "truncated": 15},
        "validation": {"rows": 9, "truncated": 0},
        "test": {"rows": 9, "truncated": 2},
    }
    found = {entry["check"]: entry for entry in story.findings({"checks": checks, "labels": ["a", "b"]}, tokens, 128)}
    assert found["Rows truncated to 128 tokens"] == {
        "check": "Rows truncated to 128 tokens",
        "finding": "15 in train, 2 in test",
        "alarm": True,
    }


def test_the_reader_is_told_of_a_training_that_was_interrupted() -> None:
    whole = Checkpoint(
        **{"steps": 9, "planned_steps": 9, "stop_reason": "finished", "best_epoch": 2, "validation": {}},
        **{"rows_per_s": 1.25, "seconds": 3},
    )
    told = "9 of 9 optimizer steps (all planned steps), 1.2 rows/s; epoch 2 was kept, the best on validation."
    assert story.training_facts(whole) == told
    resumed = whole.model_copy(update={"resumed_from": 6})
    assert story.training_facts(resumed) == (
        f"{told} It was interrupted and went on from optimizer step 6; time and speed are of the rest."
    )


def test_nested_settings_become_dotted_names() -> None:
    assert story.flatten({"a": 1, "b": {"c": None, "d": {"e": 2}}}) == [("a", 1), ("b.c", None), ("b.d.e", 2)]
