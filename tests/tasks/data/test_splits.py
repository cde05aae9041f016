"""Which row goes where: stable sides, shared rows, limits, findings, and what is refused."""

import random
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from tasks.data.rows import Arrays, fold, hash64
from tasks.data.splits import BUCKETS, Plan, plan_splits, side
from tasks.errors import DataError
from tasks.records import SPLITS, Split

Given = dict[Split, Arrays]


def arrays(
    folded: list[int],
    labels: list[int] | None = None,
    exact: list[int] | None = None,
    empty: list[bool] | None = None,
    words: list[int] | None = None,
    groups: list[int] | None = None,
) -> Arrays:
    rows = len(folded)
    return Arrays(
        labels=np.array(labels or [], np.int32),
        label_counts=np.full(rows, 1 if labels else 0, np.int32),
        targets=np.array(labels or [0] * rows, np.uint64),
        exact=np.array(exact or folded, np.uint64),
        folded=np.array(folded, np.uint64),
        groups=np.array(groups or folded, np.uint64),
        empty=np.array(empty or [False] * rows, bool),
        words=np.array(words or [1] * rows, np.int32),
    )


def of_texts(texts: list[str]) -> Arrays:
    return arrays(
        [hash64(fold(text)) for text in texts], None, [hash64(text) for text in texts], [not fold(text) for text in texts]
    )


def positions(plan: Plan) -> dict[str, list[int]]:
    return {split: plan.rows[split][1].tolist() for split in SPLITS}


def shared_given() -> Given:
    """Train holds 4 of test twice, once exactly, and 2 of validation; validation holds 5 of test, folded."""
    return {
        "train": arrays([1, 2, 3, 4, 4], exact=[10, 20, 30, 40, 41]),
        "validation": arrays([2, 5, 7], exact=[20, 50, 70]),
        "test": arrays([4, 5, 6, 6], exact=[40, 55, 60, 60]),
    }


@pytest.mark.parametrize(("value", "bucket"), [(0, 7171), (1, 7686), (2**64 - 1, 6332)])
def test_the_bucket_of_a_row_is_as_sha256sum_has_it(value: int, bucket: int) -> None:
    # printf 'finetune-flows split 1\0' and the 8 bytes | sha256sum; the first 16 digits modulo 10,000
    assert side(value) == bucket
    assert side(np.uint64(value)) == bucket


def test_train_must_have_two_different_targets() -> None:
    with pytest.raises(DataError, match="All 800 rows of split 'train' have the same target, or all have none"):
        plan_splits({"train": targets_of([7] * 1000), "test": targets_of([8])}, [], max_train_rows=800)
    plan_splits({"train": targets_of([7] * 999 + [8])}, [])
    # Nothing but the text is to be learnt.
    plan_splits({"train": targets_of([0] * 1000)}, [])


def targets_of(targets: list[int]) -> Arrays:
    return replace(arrays(list(range(1, len(targets) + 1))), targets=np.array(targets, np.uint64))


def test_about_a_tenth_each_is_cut_for_validation_and_test() -> None:
    plan = plan_splits({"train": arrays(list(range(20_000)))}, [])
    shares = {split: len(rows) / 20_000 for split, rows in positions(plan).items()}
    # Four standard deviations of a share of 0.1: 4 * sqrt(0.1 * 0.9 / 20,000) = 0.0085
    assert shares == {
        "train": pytest.approx(0.8, abs=0.012),
        "validation": pytest.approx(0.1, abs=0.0085),
        "test": pytest.approx(0.1, abs=0.0085),
    }
    assert sorted(row for rows in positions(plan).values() for row in rows) == list(range(20_000))
    assert plan.checks["cut_from_train"] == ["validation", "test"]


def test_only_the_split_that_is_missing_is_cut_and_holds_the_same_rows() -> None:
    train = arrays(list(range(1000)))
    both = positions(plan_splits({"train": train}, []))
    plan = plan_splits({"train": train, "test": arrays([5000, 5001])}, [])
    assert positions(plan)["validation"] == both["validation"]
    assert positions(plan)["test"] == [0, 1]
    assert plan.rows["validation"][0] == "train"
    assert plan.checks["cut_from_train"] == ["validation"]
    assert plan.checks["rows_given"] == {"train": 1000, "test": 2}


def test_no_row_changes_its_side_as_the_data_grows() -> None:
    texts = [f"text {number}" for number in range(300)]
    before = positions(plan_splits({"train": of_texts(texts)}, []))
    grown = [f"new {number}" for number in range(50)] + texts[::-1]
    after = positions(plan_splits({"train": of_texts(grown)}, []))
    for split in SPLITS:
        assert {texts[row] for row in before[split]} == {grown[row] for row in after[split]} & set(texts)


def test_duplicates_and_their_variants_fall_on_one_side() -> None:
    texts = [
        variant for number in range(200) for variant in (f"Text {number} here", f"text  {number} HERE ", f"Text {number} here")
    ]
    plan = plan_splits({"train": of_texts(texts)}, [])
    assert all(
        len(rows) % 3 == 0 and {row // 3 for row in rows} == {row // 3 for row in rows[::3]} for rows in positions(plan).values()
    )
    assert plan.checks["shared"]["train_test"] == {"exact": 0, "folded": 0}


@pytest.mark.parametrize(
    ("duplicates", "expected", "repeated"),
    [
        (
            "drop",
            {"train": [0, 2], "validation": [0, 2], "test": [0, 1, 2, 3]},
            {"train": 0, "validation": 0, "test": 1},
        ),
        (
            "report",
            {"train": [0, 1, 2, 3, 4], "validation": [0, 1, 2], "test": [0, 1, 2, 3]},
            {"train": 1, "validation": 0, "test": 1},
        ),
    ],
)
def test_shared_rows_are_dropped_or_reported_and_test_is_never_touched(
    duplicates: Literal["drop", "report"], expected: dict[str, list[int]], repeated: dict[str, int]
) -> None:
    plan = plan_splits(shared_given(), [], duplicates=duplicates)
    assert positions(plan) == expected
    assert plan.checks["shared"] == {
        "train_test": {"exact": 1, "folded": 2},
        "train_validation": {"exact": 1, "folded": 1},
        "validation_test": {"exact": 0, "folded": 1},
    }
    assert plan.checks["repeated"] == repeated
    assert plan.checks["rows"] == {split: len(rows) for split, rows in expected.items()}
    assert plan.checks["rows_given"] == {"train": 5, "validation": 3, "test": 4}
    assert plan.checks["duplicates"] == duplicates
    assert plan.checks["cut_from_train"] == []


def test_shared_rows_are_refused_if_so_set() -> None:
    message = r"2 rows of train are in test too \(1 exactly\); remove them or set data.duplicates to 'drop'"
    with pytest.raises(DataError, match=message):
        plan_splits(shared_given(), [], duplicates="refuse")
    clean: Given = {"train": arrays([1, 1]), "validation": arrays([2]), "test": arrays([3])}
    assert positions(plan_splits(clean, [], duplicates="refuse")) == {"train": [0, 1], "validation": [0], "test": [0]}


@pytest.mark.parametrize("seed", range(40))
def test_after_drop_no_text_is_in_two_splits(seed: int) -> None:
    rng = random.Random(seed)

    def draw(count: int) -> list[str]:
        texts = [f"{rng.choice('aAbB')}{' ' * rng.randint(1, 2)}{rng.randint(0, 30)}" for _ in range(count)]
        return [*texts, *rng.choices(["", " "], k=rng.randint(0, 2))]

    texts: dict[Split, list[str]] = {"train": draw(120)}
    texts |= {split: draw(rng.randint(3, 10)) for split in ("validation", "test") if rng.random() < 0.6}
    plan = plan_splits({split: of_texts(rows) for split, rows in texts.items()}, [])
    chosen = {split: [texts[plan.rows[split][0]][row] for row in rows] for split, rows in positions(plan).items()}
    kept = {split: {fold(text) for text in rows} for split, rows in chosen.items()}
    assert not kept["train"] & (kept["validation"] | kept["test"])
    assert not kept["validation"] & kept["test"]
    assert "" not in kept["train"] | kept["validation"] | kept["test"]
    if "test" in texts:
        assert chosen["test"] == [text for text in texts["test"] if text.strip()]


def test_empty_texts_are_left_out_and_counted() -> None:
    given: Given = {
        "train": arrays([1, 0, 2], empty=[False, True, False]),
        "validation": arrays([0, 3], empty=[True, False]),
        "test": arrays([4, 0, 0], empty=[False, True, True]),
    }
    plan = plan_splits(given, [])
    assert positions(plan) == {"train": [0, 2], "validation": [1], "test": [0]}
    assert plan.checks["empty"] == {"train": 1, "validation": 1, "test": 2}
    assert plan.checks["shared"]["train_test"] == {"exact": 0, "folded": 0}


def test_limits_are_drawn_with_the_seed_after_shared_rows_are_dropped() -> None:
    given: Given = {
        "train": arrays(list(range(100))),
        "validation": arrays(list(range(200, 250))),
        "test": arrays(list(range(50, 130))),
    }

    def draw(seed: int) -> dict[str, list[int]]:
        return positions(plan_splits(given, [], max_train_rows=20, max_test_rows=30, seed=seed))

    drawn = draw(1)
    assert {split: len(set(rows)) for split, rows in drawn.items()} == {"train": 20, "validation": 30, "test": 30}
    assert all(rows == sorted(rows) for rows in drawn.values())
    assert max(drawn["train"]) < 50, "train rows that a full test split holds must not come back because test is limited"
    assert draw(1) == drawn
    assert all(draw(2)[split] != drawn[split] for split in SPLITS)


def test_a_limit_that_no_split_reaches_changes_nothing() -> None:
    assert positions(plan_splits(shared_given(), [], max_train_rows=2, max_test_rows=4)) == positions(
        plan_splits(shared_given(), [])
    )


def test_classes_contradictions_and_lengths_are_counted_over_the_kept_rows() -> None:
    given: Given = {
        "train": arrays([1, 2, 3, 4, 5, 1], [0, 1, 2, 1, 1, 1], words=[1, 2, 3, 4, 5, 3]),
        "validation": arrays([6, 7], [1, 1], words=[10, 20]),
        "test": arrays([8, 9, 10, 2], [0, 1, 1, 0], words=[7, 7, 7, 7]),
    }
    checks = plan_splits(given, ["a", "b", "c"]).checks
    assert checks["contradictory"] == 2, "1 is a and b in train; 2 is b in train and a in test"
    assert checks["classes"] == {"train": [1, 3, 1], "validation": [0, 2, 0], "test": [2, 2, 0]}
    # Train keeps 1, 3, 4, 5, 3 words.
    assert checks["words"] == {"train": [1, 3, 3, 4, 5], "validation": [10, 12.5, 15, 17.5, 20], "test": [7, 7, 7, 7, 7]}
    assert checks["repeated"]["train"] == 1


def test_contradictory_texts_are_counted_whatever_their_hashes() -> None:
    rng = np.random.default_rng(0)
    folded = rng.integers(0, 2**64, 100, np.uint64).tolist()
    # Of each text three rows; those of every fourth have another label once, in train or in test.
    train = arrays([text for text in folded for _ in range(2)], [int(n % 8 == 1) for n in range(200)])
    test = arrays(folded, [int(n % 4 == 2) for n in range(100)])
    given = {"train": train, "validation": arrays([1, 2], [0, 1]), "test": test}
    assert plan_splits(given, ["a", "b"], duplicates="report").checks["contradictory"] == 50


def test_without_classes_nothing_is_contradictory() -> None:
    checks = plan_splits(shared_given(), []).checks
    assert (checks["contradictory"], checks["classes"]["train"]) == (0, [])


def test_rows_with_several_labels_or_none_are_counted_by_label() -> None:
    several = arrays([1, 2, 3, 4])
    several = replace(several, labels=np.array([0, 1, 1, 0], np.int32), label_counts=np.array([2, 1, 0, 1], np.int32))
    given: Given = {"train": several, "validation": arrays([5], [1]), "test": arrays([6], [0])}
    assert plan_splits(given, ["a", "b"], max_train_rows=4).checks["classes"] == {
        "train": [2, 2],
        "validation": [0, 1],
        "test": [1, 0],
    }
    with pytest.raises(DataError, match="Label 'c' of split 'test'"):
        plan_splits({**given, "test": arrays([6], [2])}, ["a", "b", "c"])


def test_rows_of_a_group_stay_on_one_side() -> None:
    rows = 3000
    groups = [number // 30 for number in range(rows)]
    plan = plan_splits({"train": arrays([10_000 + number for number in range(rows)], groups=groups)}, [])
    found = {split: {groups[row] for row in plan.rows[split][1]} for split in SPLITS}
    assert sum(len(members) for members in found.values()) == rows // 30
    assert all(found.values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"train": arrays([1, 2], [0, 1]), "validation": arrays([3], [0]), "test": arrays([4], empty=[True])},
            r"Split 'test' is left without rows \(train 2, validation 1\); give more rows, or name it in data\.test",
        ),
        (
            {"train": arrays([1, 2], [0, 1]), "validation": arrays([3], [0]), "test": arrays([1, 2, 3], [0, 1, 0])},
            "Split 'train' is left without rows",
        ),
        (
            {"train": arrays([1, 2], [1, 1]), "validation": arrays([3], [1]), "test": arrays([4], [1])},
            "Split 'train' has the one class 'b'; a classifier needs two or more",
        ),
        (
            {"train": arrays([1, 2, 5], [0, 1, 1]), "validation": arrays([3], [1]), "test": arrays([4, 6], [2, 2])},
            r"Label 'c' of split 'test' \(2 rows\) is not in split 'train'; add such rows to train or remove them from test",
        ),
        (
            {"train": arrays([1, 2, 5], [0, 1, 1]), "validation": arrays([3], [2]), "test": arrays([4], [1])},
            r"Label 'c' of split 'validation' \(1 rows\) is not in split 'train'",
        ),
        (
            {"train": arrays([1, 2], [0, 1]), "validation": arrays([3], [0]), "test": arrays([4], [1])},
            "Split 'train' has 2 rows but 3 classes",
        ),
    ],
)
def test_unfit_splits_are_refused_in_one_line(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        plan_splits(given, ["a", "b", "c"])


def test_buckets_cover_ten_thousand_values() -> None:
    buckets = [side(value) for value in range(5000)]
    assert min(buckets) >= 0
    assert BUCKETS - 100 < max(buckets) < BUCKETS
