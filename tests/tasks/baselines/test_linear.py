"""Tests of the linear baseline's features; what it learns is tested in `test_run`."""

import datasets
import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from tasks.baselines.linear import Words
from tests.helpers import topic_rows


def rows_of(*texts: str, **more: list[str]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": list(texts), **more})


def test_the_weights_are_scikit_learns_of_words_and_pairs() -> None:
    texts = [row["text"] for row in topic_rows(60)]
    rows = rows_of(*texts)
    found = Words(rows, 50_000)(rows).toarray()
    expected = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+").fit_transform(texts).toarray()
    assert found.shape == expected.shape
    # The columns are in another order: what rows have in common is the same.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)


def test_the_features_are_those_that_most_rows_have() -> None:
    rows = rows_of("goal match", "goal bank", "match goal", "orbit")
    words = Words(rows, 2)
    assert words(rows).shape == (4, 2)
    # `goal` is in three rows and `match` in two; nothing of the last row is left.
    assert (words(rows).toarray() > 0).sum(1).tolist() == [2, 1, 2, 0]


def test_words_of_other_rows_count_where_train_has_them() -> None:
    words = Words(rows_of("goal match", "bank"), 9)
    weights = words.of({"text": ["rocket", "GOAL!"]}).toarray()
    assert (weights > 0).sum(1).tolist() == [0, 1]


def test_both_texts_of_a_pair_are_read() -> None:
    rows = rows_of("goal", "goal", pair=["match", "bank"])
    first, second = Words(rows, 9)(rows).toarray()
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("text", ["猫が坐った", "แมว"])
def test_scripts_without_spaces_have_words(text: str) -> None:
    rows = rows_of(text, text[0])
    assert (Words(rows, 99)(rows).toarray() > 0).sum() > 2


def test_what_a_model_would_not_read_is_left_out() -> None:
    rows = rows_of("goal " * 900 + "match", "goal")
    assert Words(rows, 9)(rows).shape == (2, 2)  # `goal` and `goal goal`
