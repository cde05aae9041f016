"""Tests of the span that stands among a question's words."""

import math

import numpy as np
import pytest

from tasks.encoding.spans import NO_SPAN
from tasks.encoding.windows import OUTSIDE
from tasks.guesses.overlap import best_window, overlap

CONTEXT = "The sky is blue. Ada Lovelace wrote the first program in London."


def text_of(question: str, context: str, words: int) -> str:
    start, end, _ = best_window(question, context, words)
    return context[start:end]


def test_a_worked_case() -> None:
    # Of a, b, q, c, r, d the question has q and r, once each; it is two words long. `c` stands between both, `q` beside r alone.
    start, end, score = best_window("q r", "a b q c r d", 1)
    assert (start, end) == (6, 7)
    assert score == pytest.approx(2 * math.log(2))
    assert text_of("q r", "a q r d e", 1) == "a"
    assert text_of("q r", "x y a q d r e", 1) == "d"


def test_the_answer_stands_among_the_questions_words_and_holds_none() -> None:
    # Within three words `in` has all three of them on its sides; `program` has two, and is one itself.
    assert text_of("first program London", CONTEXT, 1) == "in"
    assert text_of("Lovelace the first", CONTEXT, 1) == "wrote"


def test_a_word_that_is_everywhere_counts_little() -> None:
    context = "the x the y the z the w orbit v"
    _, _, rare = best_window("orbit", context, 1)
    _, _, often = best_window("the", context, 1)
    assert rare == pytest.approx(math.log(2))
    assert often == pytest.approx(2 * math.log(1 + 1 / 4))


def test_case_and_punctuation_do_not_matter() -> None:
    assert text_of("WROTE, first", CONTEXT, 1) == text_of("wrote first", CONTEXT, 1)


@pytest.mark.parametrize("words", [3, 30])
def test_a_context_that_is_shorter_is_the_answer(words: int) -> None:
    assert text_of("what", "(one two three)", words) == "one two three"


def test_a_context_without_words_has_no_answer() -> None:
    assert best_window("what", "… !", 2) == (OUTSIDE, OUTSIDE, NO_SPAN)


def test_rows_have_a_span_each_and_a_score_of_no_answer() -> None:
    found = overlap(["a", "b"], ["x a y", "!"], 1)
    assert found["spans"].shape == (2, 1, 3)
    assert found["spans"][1, 0].tolist() == [OUTSIDE, OUTSIDE, NO_SPAN]
    assert np.array_equal(found["nulls"], [0, 0])
