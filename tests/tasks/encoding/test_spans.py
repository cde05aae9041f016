"""The best spans of windows and of rows, against a search of all spans."""

import numpy as np
import pytest
import torch

from tasks.encoding.spans import NO_SPAN, best_spans, merge_spans


def searched(start: np.ndarray, end: np.ndarray, inside: list[int], max_tokens: int) -> list[tuple[float, int, int]]:
    """All spans that begin and end inside, the best first."""
    spans = [
        (float(start[first] + end[last]), first, last)
        for first in inside
        for last in inside
        if first <= last < first + max_tokens
    ]
    return sorted(spans, key=lambda span: -span[0])


@pytest.mark.parametrize("seed", range(20))
def test_best_spans_are_those_of_a_full_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    windows, tokens, count, max_tokens = 3, int(rng.integers(4, 15)), int(rng.integers(1, 9)), int(rng.integers(1, 20))
    start, end = rng.normal(size=(2, windows, tokens)).astype(np.float32)
    chars = np.arange(tokens) * 10
    outside = rng.random((windows, tokens)) < 0.4
    char_starts, char_ends = np.where(outside, -1, chars), np.where(outside, -1, chars + 7)
    null = rng.integers(0, tokens, windows)

    arrays = (torch.tensor(array) for array in (start, end, char_starts, char_ends, null))
    found = best_spans(*arrays, count=count, max_tokens=max_tokens)

    assert found.shape == (windows, 1 + 3 * count)
    for row in range(windows):
        assert found[row, 0] == pytest.approx(start[row, null[row]] + end[row, null[row]])
        expected = searched(start[row], end[row], np.flatnonzero(~outside[row]).tolist(), max_tokens)[:count]
        spans = found[row, 1:].reshape(count, 3)
        np.testing.assert_allclose(spans[: len(expected)], [(f * 10, e * 10 + 7, score) for score, f, e in expected], rtol=1e-6)
        assert spans[len(expected) :].tolist() == [[-1, -1, NO_SPAN]] * (count - len(expected))


def test_a_row_has_the_best_spans_of_its_windows_once_each() -> None:
    windows = np.array(
        [
            [3, 0, 5, 9.0, 6, 8, 1.0],
            [7, 1, 2, 4.0, -1, -1, NO_SPAN],
            [2, 6, 8, 8.0, 0, 5, 2.0],  # the first row again: one span is better here, one worse
        ]
    )
    spans, nulls = merge_spans(windows, np.array([0, 1, 0]), 2)
    assert nulls.tolist() == [2, 7]
    assert spans.tolist() == [[[0, 5, 9], [6, 8, 8]], [[1, 2, 4], [-1, -1, NO_SPAN]]]
