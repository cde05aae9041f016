"""From logits to spans of the context: the best answers of each window, then of each row.

A span scores the sum of its start's and its end's logit, no answer that of the null token's, the lowest of several windows'.
Source: Devlin et al. 2019, BERT, section 4.3 (arXiv 1810.04805), and its run_squad.py.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tasks.encoding.windows import OUTSIDE
from tasks.kinds.kind import Array

if TYPE_CHECKING:
    import torch

NO_SPAN = -1e9
"""The score of a span that is not there; finite, so that differences are."""


def best_spans(
    start_logits: "torch.Tensor",
    end_logits: "torch.Tensor",
    char_starts: "torch.Tensor",
    char_ends: "torch.Tensor",
    null: "torch.Tensor",
    *,
    count: int,
    max_tokens: int,
) -> Array:
    """Return the best spans of each window that begin and end in its context, and the score of no answer.

    Args:
        start_logits: shape (windows, tokens), as all that follow but `null`.
        end_logits: Logits of a span's last token.
        char_starts: First characters of tokens; `OUTSIDE` for those that are not of the context.
        char_ends: Characters after the last ones.
        null: Positions of the tokens that stand for no answer, shape (windows,).
        count: How many spans.
        max_tokens: Tokens of a span at most.

    Returns:
        Array: shape (windows, 1 + 3 * count): the score of no answer, then first character, character after the last and score of
        each span, the best first. Where there are fewer, characters are `OUTSIDE` and scores `NO_SPAN`.
    """
    import torch

    start_logits, end_logits = start_logits.float(), end_logits.float()
    windows, tokens = start_logits.shape
    width = min(max_tokens, tokens)
    rows = torch.arange(windows, device=null.device)
    outside = char_starts == OUTSIDE
    starts, ends = (logits.masked_fill(outside, float("-inf")) for logits in (start_logits, end_logits))
    # Entry (start, more): the span of `more` tokens beside its first; a table of all starts and ends would grow with the square.
    banded = torch.nn.functional.pad(ends, (0, width - 1), value=float("-inf")).unfold(1, width, 1)
    scores, places = (starts[:, :, None] + banded).flatten(1).topk(min(count, tokens * width), dim=1)
    first = places // width
    last = (first + places % width).clamp(max=tokens - 1)
    there = scores > float("-inf")
    found = np.full((windows, count, 3), (OUTSIDE, OUTSIDE, NO_SPAN), np.float64)
    kept = scores.shape[1]
    for column, values in enumerate((char_starts.gather(1, first), char_ends.gather(1, last), scores)):
        found[:, :kept, column] = torch.where(there, values, NO_SPAN if column == 2 else OUTSIDE).cpu().numpy()
    nulls = (start_logits[rows, null] + end_logits[rows, null]).cpu().numpy().astype(np.float64)
    return np.concatenate([nulls[:, None], found.reshape(windows, -1)], axis=1)


def merge_spans(windows: Array, owners: Array, rows: int) -> tuple[Array, Array]:
    """Return the best spans of each row, out of those of all its windows, and the score of no answer.

    Args:
        windows: What `best_spans` returns of all windows.
        owners: Per window, its row.
        rows: How many rows there are.

    Returns:
        tuple: spans of shape (rows, count, 3) as in `best_spans`, each of other characters; scores of no answer, shape (rows,).
    """
    count = (windows.shape[1] - 1) // 3
    candidates = windows[:, 1:].reshape(len(windows), count, 3)
    nulls = np.full(rows, np.inf)
    np.minimum.at(nulls, owners, windows[:, 0])
    spans = np.full((rows, count, 3), (OUTSIDE, OUTSIDE, NO_SPAN), np.float64)
    order = np.argsort(owners, kind="stable")
    for row, mine in zip(*_groups(owners[order], order), strict=True):
        best: dict[tuple[float, float], float] = {}
        for start, end, score in candidates[mine].reshape(-1, 3):
            if start != OUTSIDE:
                best[start, end] = max(score, best.get((start, end), NO_SPAN))
        chosen = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:count]
        for place, ((start, end), score) in enumerate(chosen):
            spans[row, place] = start, end, score
    return spans, nulls


def span_texts(spans: Array, contexts: Sequence[str]) -> list[list[str]]:
    """Return the texts of each row's spans in its context; empty where there is none.

    Args:
        spans: shape (rows, count, 3), see `best_spans`.
        contexts: Per row.
    """
    places = spans[:, :, :2].astype(np.int64).tolist()
    return [
        [context[start:end] if start != OUTSIDE else "" for start, end in row]
        for row, context in zip(places, contexts, strict=True)
    ]


def margins(spans: Array, nulls: Array) -> Array:
    """Return the score of no answer less that of the best span, shape (rows,)."""
    difference: Array = nulls - spans[:, 0, 2]
    return difference


def probabilities(spans: Array, nulls: Array) -> Array:
    """Return the softmax over each row's spans and no answer, which comes last, shape (rows, count + 1)."""
    scores = np.concatenate([spans[:, :, 2], nulls[:, None]], axis=1)
    odds = np.exp(scores - scores.max(1, keepdims=True))
    shares: Array = odds / odds.sum(1, keepdims=True)
    return shares


def _groups(owners: Array, order: Array) -> tuple[list[int], list[Array]]:
    """Return the rows, and the positions of the windows of each."""
    rows, begins = np.unique(owners, return_index=True)
    return rows.tolist(), np.split(order, begins[1:])
