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


@pytest.mark.parametrize(
    ("word", "told"),
    [("improved", "Improved"), ("no evidence", "No evidence of a difference"), ("regressed", "Regressed")],
)
def test_the_sentence_leads_with_the_verdict_and_has_the_scores_and_the_interval(word: str, told: str) -> None:
    found = story.sentence(KIND, scores(0.25), scores(0.875), word, {"accuracy": (0.6, 0.651)})
    assert found == (
        f"{told}: Accuracy on 1,200 test rows is 0.875 after fine-tuning and 0.250 before, a difference of +62.5 points "
        "(95 % interval +60.0 to +65.1 points)."
    )


def test_a_metric_of_which_less_is_better_is_told_in_its_own_unit() -> None:
    kind = load_kind("causal-lm")(load_kind("causal-lm").config_class())
    before, after = (scores(0).model_copy(update={"metrics": {"bits_per_byte": bits}}) for bits in (2.0, 1.5))
    assert story.sentence(kind, before, after, "improved", {"bits_per_byte": (-0.6, -0.41)}) == (
        "Improved: Bits per byte on 1,200 test rows is 1.500 after fine-tuning and 2.000 before, a difference of -0.5000 "
        "(95 % interval -0.6000 to -0.4100); lower is better."
    )
    assert story.sentence(kind, before, after, "no evidence", {}).endswith("a difference of -0.5000; lower is better.")


def test_the_reader_is_told_what_the_rows_could_have_shown() -> None:
    def told(word: str, changed: int, detectable: float | None) -> str:
        return story.caution(KIND, {"verdict": {"word": word, "changed": changed, "detectable": detectable}})

    assert told("improved", 50, 0.02) == ""
    assert told("no evidence", 50, 0.0213) == (
        "Of a true difference of 2.1 points, rows like these would give evidence four times in five."
    )
    assert told("no evidence", 3, None) == "3 rows changed their score; it takes 6 for any evidence."


def test_the_reader_is_told_how_far_seeds_move_the_score() -> None:
    assert story.noise(KIND, None, 1) == ""
    # 2 * sqrt(2) * 0.01.
    assert story.noise(KIND, 0.01, 3) == (
        "Over 3 seeds the standard deviation of Accuracy is 1.0 points: trainings that differ in the seed alone come to lie up "
        "to 2.8 points apart."
    )


def test_an_interval_is_told_as_its_difference_is() -> None:
    entry = {"name": "f1", "difference": 0.1, "low": -0.012, "high": 0.2, "fraction": True, "better": "higher"}
    assert story.interval(entry) == "-1.2 to +20.0 points"
    assert story.interval({**entry, "better": "lower"}) == "-0.0120 to +0.2000"
    assert story.interval({**entry, "low": None, "high": None}) == "–"


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


def test_what_the_models_write_stands_side_by_side_row_by_row() -> None:
    def written(model: str, *rows: str) -> list[dict[str, str]]:
        return [{"id": row, "prompt": f"prompt {row}", "text": f"{model} {row}"} for row in rows]

    before, after = written("before", "1", "2"), written("after", "1", "2")
    alone = story.samples(before, after)
    assert [sample["champion"] for sample in alone] == [None, None]
    # The champion has none of the first row, and one of a row that the others have none of.
    found = story.samples(before, after, written("champion", "2", "3"))
    assert [sample["champion"] and sample["champion"]["text"] for sample in found] == [None, "champion 2"]
    assert found[1] == {
        **{"prompt": "prompt 2", "before": "before 2", "after": "after 2"},
        "champion": {"id": "2", "prompt": "prompt 2", "text": "champion 2"},
    }


def test_nested_settings_become_dotted_names() -> None:
    assert story.flatten({"a": 1, "b": {"c": None, "d": {"e": 2}}}) == [("a", 1), ("b.c", None), ("b.d.e", 2)]
