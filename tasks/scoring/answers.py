"""Answers row by row: which are given, what is kept of them, and where the difference between two models comes from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.encoding.spans import margins, probabilities, span_texts
from tasks.encoding.windows import OUTSIDE
from tasks.kinds.kind import Array, Predictions
from tasks.scoring.squad import exact_match, f1_score

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def given_answers(spans: Array, answered: Array, contexts: Sequence[str]) -> list[str]:
    """Return each row's best span where it is `answered`, else the empty text."""
    best = span_texts(spans[:, :1], contexts)
    return [text if given else "" for (text,), given in zip(best, answered, strict=True)]


def answers_given(predictions: Predictions, contexts: Sequence[str]) -> "dict[str, pa.Array]":
    """Return of each row the `prediction`, its place in characters, its `probability`, and the margin of no answer.

    `probability` is over the n-best and no answer, `no_answer_margin` the score of no answer less that of the best span. Without
    an answer the prediction is the empty text, and its place is `OUTSIDE`.

    Args:
        predictions: `spans`, `nulls` (see `merge_spans`) and `answered`.
        contexts: Per row.
    """
    import pyarrow as pa

    spans, nulls, answered = (predictions[name] for name in ("spans", "nulls", "answered"))
    chances = probabilities(spans, nulls)
    places = np.where(answered[:, None], spans[:, 0, :2], OUTSIDE).astype(np.int32)
    return {
        "prediction": pa.array(given_answers(spans, answered, contexts), pa.string()),
        "start": pa.array(places[:, 0]),
        "end": pa.array(places[:, 1]),
        "probability": pa.array(np.where(answered, chances[:, 0], chances[:, -1])),
        "no_answer_margin": pa.array(margins(spans, nulls)),
    }


def answers_table(predictions: Predictions, contexts: Sequence[str], answers: Sequence[Sequence[str]]) -> "dict[str, pa.Array]":
    """Return what is kept of each row: its answers, what `answers_given` returns, and the n-best.

    `n_best_probabilities` are over the n-best and no answer, `fine_score` is the F1 to be expected of them.

    Args:
        predictions: `spans`, `nulls` (see `merge_spans`) and `answered`.
        contexts: Per row.
        answers: Per row all right ones.
    """
    import pyarrow as pa

    spans, nulls, told = predictions["spans"], predictions["nulls"], answers_given(predictions, contexts)
    given, n_best, chances = told["prediction"].to_pylist(), span_texts(spans, contexts), probabilities(spans, nulls)
    counts = (spans[:, :, 0] != OUTSIDE).sum(1).tolist()
    expected = [
        sum(chance * f1_score(text, right) for text, chance in zip([*texts, ""], row, strict=True))
        for texts, row, right in zip(n_best, chances.tolist(), answers, strict=True)
    ]
    texts = pa.list_(pa.string())
    return {
        "answers": pa.array(answers, texts),
        **told,
        "n_best": pa.array([row[:count] for row, count in zip(n_best, counts, strict=True)], texts),
        "n_best_probabilities": pa.array(
            [row[:count] for row, count in zip(chances.tolist(), counts, strict=True)], pa.list_(pa.float64())
        ),
        "exact_match": pa.array([exact_match(text, right) for text, right in zip(given, answers, strict=True)], pa.float64()),
        "fine_score": pa.array(expected, pa.float64()),
    }


def answers_analysis(before: "pd.DataFrame", after: "pd.DataFrame") -> dict[str, Any]:
    """Return where the difference comes from, as `sources`: sentences.

    Args:
        before: Per row `answers` (texts), `prediction` (empty for no answer), `exact_match` and `score`, its F1.
        after: The same rows.
    """
    answerable = before["answers"].map(len) > 0
    told = []
    if count := int(answerable.sum()):
        old, new = before[answerable], after[answerable]
        exact, empty, apart = (
            tuple(int(found.sum()) for found in pair)
            for pair in (
                (old["exact_match"], new["exact_match"]),
                (old["prediction"] == "", new["prediction"] == ""),
                *[tuple((frame["score"] == 0) & (frame["prediction"] != "") for frame in (old, new))],
            )
        )
        told.append(
            f"Of {count:,} questions with an answer {exact[0]:,} were answered exactly before and {exact[1]:,} are after; "
            f"{apart[0]:,} before and {apart[1]:,} after were given an answer without a word of the right one."
        )
        if any(empty):
            told.append(f"Of these, {empty[0]:,} were wrongly left without an answer before and {empty[1]:,} after.")
    if count := int((~answerable).sum()):
        left = [int(frame.loc[~answerable, "exact_match"].sum()) for frame in (before, after)]
        told.append(f"Of {count:,} questions without an answer {left[0]:,} were rightly left so before and {left[1]:,} after.")
    return {"sources": told}
