"""Exact match, F1 and threshold by the rules of SQuAD's script: worked cases, a plain second formulation, brute force."""

import random
import string

import numpy as np
import pytest

from tasks.scoring.squad import best_threshold, exact_match, f1_score, normalize, squad_metrics, squad_statistics

WORDS = [
    *"the a an The AN apple Apple apple's the-end U.S. U.S.A. theory panthers an. (a) 24–10 24-10 $5 , . ' ! co-op über".split(),
    *"naïve nai\u0308ve 東京 東 京 😀 ‘a’ “the” a\u00a0b \t \n the\u200b \u0301".split(" "),
]


def plainly_normalized(text: str) -> list[str]:
    """The rules, one after the other, in the plainest way: lower case, punctuation out, articles out, split at spaces."""
    kept = "".join(sign for sign in text.lower() if sign not in set(string.punctuation))
    words, word = [], ""
    for sign in [*kept, " "]:
        # An article stands alone between signs that are no letters, digits or underscores.
        if sign.isalnum() or sign == "_":
            word += sign
        else:
            # What an article kept apart stays apart.
            words += [" " if word in ("a", "an", "the") else word, sign]
            word = ""
    return "".join(words).split()


def plainly_scored(prediction: str, answers: list[str]) -> tuple[float, float]:
    """Exact match and F1 by precision and recall, the best over the references."""
    references = [words for words in map(plainly_normalized, answers) if words] or [[]]
    predicted, scores = plainly_normalized(prediction), []
    for reference in references:
        left, shared = list(reference), 0
        for word in predicted:
            if word in left:
                left.remove(word)
                shared += 1
        if not predicted or not reference:
            f1 = 1.0 if predicted == reference else 0.0
        elif shared == 0:
            f1 = 0.0
        else:
            precision, recall = shared / len(predicted), shared / len(reference)
            f1 = 2 * precision * recall / (precision + recall)
        scores.append((float(predicted == reference), f1))
    return max(exact for exact, _ in scores), max(f1 for _, f1 in scores)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Panthers", "panthers"),
        ("  the   Denver\tBroncos ", "denver broncos"),
        ("U.S.A.", "usa"),
        # Punctuation goes without a space in its place, and before articles are looked for.
        ("the-end", "theend"),
        ("(a)", ""),
        ("an apple a day", "apple day"),
        ("theory of Athens", "theory of athens"),
        ("24–10", "24–10"),  # only ASCII punctuation is punctuation
        ("24-10", "2410"),
        ("‘a’", "‘ ’"),
        ("a\u00a0b", "b"),
        ("The", ""),
        ("", ""),
        ("ÜBER", "über"),
    ],
)
def test_normalization(text: str, expected: str) -> None:
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("Denver Broncos", ["the Denver Broncos!"], 1, 1),
        ("Denver", ["Denver Broncos", "Denver"], 1, 1),
        # 2 shared of 3 and of 4: precision 2/3, recall 2/4.
        ("x y z", ["x y v w"], 0, 4 / 7),
        # Repeated words count as often as both have them.
        ("x x y", ["x z"], 0, 2 / 5),
        ("cat", ["dog"], 0, 0),
        # No answer.
        ("", [], 1, 1),
        ("cat", [], 0, 0),
        ("", ["cat"], 0, 0),
        ("the", [], 1, 1),  # nothing, once normalized
        # References that normalize to nothing are left out, and no other being left, nothing is right.
        ("", ["the"], 1, 1),
        ("a", ["an"], 1, 1),
        ("a", ["a", "vitamin"], 0, 0),
        ("...", ["!"], 1, 1),
    ],
)
def test_scores_of_worked_cases(prediction: str, answers: list[str], exact: float, f1: float) -> None:
    assert exact_match(prediction, answers) == exact
    assert f1_score(prediction, answers) == pytest.approx(f1)
    assert plainly_scored(prediction, answers) == pytest.approx((exact, f1))


def test_scores_agree_with_the_rules_on_random_texts() -> None:
    rng = random.Random(5)

    def text() -> str:
        return rng.choice(["", " ", " ", "-"]).join(rng.choice(WORDS) for _ in range(rng.randint(0, 6)))

    cases = [(text(), [text() for _ in range(rng.randint(0, 3))]) for _ in range(3000)]
    for prediction, answers in cases:
        found = exact_match(prediction, answers), f1_score(prediction, answers)
        assert found == pytest.approx(plainly_scored(prediction, answers)), (prediction, answers)
    assert 300 < sum(f1_score(*case) > 0 for case in cases) < 2700


def test_metrics_are_means_of_all_questions_and_of_each_sort() -> None:
    found = squad_metrics(squad_statistics(["x y", "x", "", "z"], [["x"], ["x"], [], []]).sum(0))
    assert found == pytest.approx(
        {
            **{"f1": (2 / 3 + 1 + 1 + 0) / 4, "exact_match": 2 / 4},
            **{"f1_has_answer": (2 / 3 + 1) / 2, "exact_match_has_answer": 1 / 2},
            **{"f1_no_answer": 1 / 2, "exact_match_no_answer": 1 / 2},
        }
    )


def test_without_unanswerable_questions_there_are_two_metrics() -> None:
    assert squad_metrics(squad_statistics(["x"], [["x"]]).sum(0)) == {"f1": 1, "exact_match": 1}
    assert set(squad_metrics(squad_statistics([""], [[]]).sum(0))) == {
        *("f1", "exact_match", "f1_no_answer", "exact_match_no_answer"),
    }


def total(threshold: float, margins: np.ndarray, answered: np.ndarray, unanswered: np.ndarray) -> float:
    return float(np.where(margins > threshold, unanswered, answered).sum())


@pytest.mark.parametrize("seed", range(50))
def test_no_threshold_scores_better_than_the_best(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 30))
    margins = rng.integers(-4, 5, rows).astype(float)  # many ties
    unanswered = rng.integers(0, 2, rows).astype(float)
    answered = np.where(unanswered, 0, rng.random(rows))
    found = best_threshold(margins, answered, unanswered)
    candidates = [total(value, margins, answered, unanswered) for value in np.arange(-6, 7, 0.25)]
    assert total(found, margins, answered, unanswered) == pytest.approx(max(candidates))


def test_threshold_lies_midway_and_nearest_to_zero() -> None:
    margins, answered, unanswered = np.array([3.0, 1.0]), np.array([0.0, 1.0]), np.array([1.0, 0.0])
    assert best_threshold(margins, answered, unanswered) == 2
    # Whatever it is, the score is the same.
    assert best_threshold(np.array([-5.0, 0.5, 9.0]), np.zeros(3), np.zeros(3)) == pytest.approx(-2.25)


def test_threshold_can_let_all_be_answered_or_none() -> None:
    margins, ones, zeros = np.array([-2.0, 4.0]), np.ones(2), np.zeros(2)
    assert best_threshold(margins, ones, zeros) == 5
    assert best_threshold(margins, zeros, ones) == -3
