"""Tests of the beginning of a text in place of a summary."""

import pytest

from tasks.guesses.lead import lead, median_words


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("The cat sat. It slept.", 3, "The cat sat"),
        ("The cat sat. It slept.", 4, "The cat sat. It"),
        ("  “Stop!”  he said", 2, "“Stop!”  he"),
        ("short", 9, "short"),
        ("…!", 2, ""),
        ("猫が坐った。", 3, "猫が坐"),
        ("GPT-2 model", 2, "GPT-2"),
    ],
)
def test_a_text_up_to_the_end_of_a_word(text: str, words: int, expected: str) -> None:
    assert lead(text, words) == expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [(["a b", "a b c d", "a b c d e"], 4), (["a", "a b c d"], 2), ([], 1), (["", "."], 1), (["猫が坐"], 3)],
)
def test_the_median_of_words(texts: list[str], expected: int) -> None:
    assert median_words(texts) == expected
