"""Tests of ROUGE: parity with the package `rouge_score`, worked cases, words of other scripts, and the neutral metrics."""

import random

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from tasks.scoring.rouge import (
    NAMES,
    ROUGE_L_F1,
    common_length,
    common_positions,
    rouge_metrics,
    rouge_statistics,
    score_text,
    split_words,
)

REFERENCE = RougeScorer(list(NAMES), use_stemmer=False)
CORNERS = [
    ("", ""),
    ("", "the cat"),
    ("the cat", ""),
    ("\n\n", "the cat\n"),
    ("the cat", "!?, …"),
    ("---\n...", "***"),
    ("cat", "cat"),
    ("cat", "dog"),
    ("cat cat cat", "cat"),
    ("cat", "cat cat cat"),
    ("a b c", "c b a"),
    ("The CAT's no. 1!", "the cat s no 1"),
    ("well-known e.g. 3.14 $5", "well known eg 3 14 5"),
    ("under_score", "under score"),
    ("İstanbul Straße Ünal", "istanbul strasse unal"),
    ("кошка 猫 cat", "cat кошка"),
    ("tabs\tand\x0bother\u00a0spaces", "tabs and other spaces"),
    ("one two\r\nthree four", "three four\r\none two"),
    ("\n\none two\n\n\nthree\n", "one\ntwo three"),
    ("...\none two", "one\n...\ntwo"),
    ("w1 w2 w3 w4 w5", "w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5"),
    ("a a b\na b b", "a b\na b\na b"),
    ("a b\nb a", "b a a b"),
    ("x " * 300, "x y " * 200),
]


def random_text(rng: random.Random) -> str:
    vocabulary = [f"w{number}" for number in range(rng.choice((3, 8, 40)))] + ["The", "é", "-", "A.B", "10%"]
    lines = [" ".join(rng.choice(vocabulary) for _ in range(rng.randint(0, 14))) for _ in range(rng.randint(1, 5))]
    return rng.choice(("\n", "\n", " ", "\n\n", "\r\n")).join(lines)


def assert_equals_the_package(reference: str, prediction: str) -> None:
    found = score_text(reference, prediction, "ascii")
    for name, expected in REFERENCE.score(reference, prediction).items():
        assert tuple(found[name]) == pytest.approx(tuple(expected), abs=1e-12), (name, reference, prediction)


@pytest.mark.parametrize(("reference", "prediction"), CORNERS)
def test_corner_cases_score_as_in_the_package(reference: str, prediction: str) -> None:
    assert_equals_the_package(reference, prediction)


def test_random_texts_score_as_in_the_package() -> None:
    rng = random.Random(0)
    for _ in range(1000):
        assert_equals_the_package(random_text(rng), random_text(rng))


def test_scores_of_a_worked_case() -> None:
    # Lin 2004, section 3.1: "police kill the gunman" keeps the order of two words of "police killed the gunman" and a third.
    found = score_text("police killed the gunman", "the gunman kill police", "ascii")
    assert found["rouge1"] == pytest.approx((3 / 4, 3 / 4, 3 / 4))
    assert found["rouge2"] == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert found["rougeL"] == pytest.approx((2 / 4, 2 / 4, 2 / 4))


def test_a_summarys_sentences_are_united() -> None:
    # Lin 2004, section 3.2: of w1 w2 w3 w4 w5, w1 w2 is in the first sentence and w1 w3 w5 in the second: 4 of 5 words.
    found = score_text("w1 w2 w3 w4 w5", "w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5", "ascii")
    assert found["rougeLsum"].recall == pytest.approx(4 / 5)


@pytest.mark.parametrize("seed", range(20))
def test_both_ways_to_the_longest_common_subsequence_agree(seed: int) -> None:
    rng = random.Random(seed)
    first, second = ([rng.choice("abcd") for _ in range(rng.randint(0, 90))] for _ in range(2))
    assert common_length(first, second) == len(common_positions(first, second))


@pytest.mark.parametrize(
    ("text", "ascii_words", "unicode_words"),
    [
        ("Don't stop_now, 3.5!", "don t stop now 3 5", "don t stop now 3 5"),
        ("Über Käse", "ber k se", "über käse"),
        ("U\u0308ber", "u ber", "über"),
        ("Привет, мир", "", "привет мир"),
        ("हिन्दी में", "", "हिन्दी में"),
        ("مرحبا بالعالم", "", "مرحبا بالعالم"),
        ("日本語のBERT", "bert", "日 本 語 の bert"),
        ("안녕하세요 세계", "", "안녕하세요 세계"),
        ("👍 ok", "ok", "ok"),
    ],
)
def test_words(text: str, ascii_words: str, unicode_words: str) -> None:
    assert split_words(text, "ascii") == ascii_words.split()
    assert split_words(text, "unicode") == unicode_words.split()


def test_texts_of_other_scripts_score_with_unicode_words_only() -> None:
    assert score_text("Привет мир", "Привет мир", "ascii")["rougeL"].f1 == 0
    assert score_text("Привет мир", "привет, мир!", "unicode")["rougeL"].f1 == 1


def test_metrics_are_means_over_the_rows_and_ratios_of_sums() -> None:
    predictions, references = ["a b c", "", "x y"], ["a b d e", "f g", "x y"]
    documents = ["a b and b c", "f g", "y x"]
    statistics = rouge_statistics(predictions, references, documents, "ascii")
    expected = [REFERENCE.score(*pair) for pair in zip(references, predictions, strict=True)]
    found = rouge_metrics(statistics.sum(0))
    for name in NAMES:
        assert found[name] == pytest.approx(np.mean([row[name].fmeasure for row in expected]))
        assert found[f"{name}/precision"] == pytest.approx(np.mean([row[name].precision for row in expected]))
        assert found[f"{name}/recall"] == pytest.approx(np.mean([row[name].recall for row in expected]))
    assert found["length_ratio"] == pytest.approx((3 + 0 + 2) / (4 + 2 + 2))
    # Of the bigrams ab, bc and xy, the document of the last lacks it.
    assert found["novel_bigrams"] == pytest.approx(1 / 3)
    assert statistics[:, ROUGE_L_F1] == pytest.approx([row["rougeL"].fmeasure for row in expected])


def test_rows_without_a_word_count_as_zero() -> None:
    found = rouge_metrics(rouge_statistics(["", "…"], ["猫", "?"], ["", ""], "ascii").sum(0))
    assert set(found.values()) == {0.0}
