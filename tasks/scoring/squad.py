"""How good extracted answers are, by the rules of SQuAD 2.0's official script: exact match, F1 and the no-answer threshold.

An answer is normalized, then compared with each reference; the best one counts. No answer is the empty text. The script of
SQuAD 1.1 differs only where an answer is nothing but articles and punctuation, which it has no rule for.
Source: Rajpurkar et al. 2016, SQuAD, section 6.1 (arXiv 1606.05250), and 2018, Know What You Don't Know, section 5 (arXiv
1806.03822), with its evaluate-v2.0.py.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tasks.kinds.kind import Array, Metrics
from tasks.scoring.ratios import ratio

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalize(text: str) -> str:
    """Return a text in lower case without ASCII punctuation and English articles, its words separated by single spaces.

    Punctuation goes first, and goes without a trace: `the-end` is one word, with no article in it.
    """
    bare = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 where the prediction is one of the answers after normalization; without any, where it is empty."""
    return float(normalize(prediction) in _references(answers))


def f1_score(prediction: str, answers: Sequence[str]) -> float:
    """Return the F1 of the words that the prediction shares with the answer that it shares most with.

    Where either is empty after normalization, it is 1 if both are, else 0.
    """
    words = normalize(prediction).split()
    return max(_f1(words, reference.split()) for reference in _references(answers))


def squad_statistics(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> Array:
    """Return per row: exact match, F1, whether it has an answer, the first two where it has, where it has none, and 1.

    Args:
        predictions: Texts; empty where no answer is given.
        answers: Per row, all right ones; none where the question has no answer.

    Returns:
        Array: shape (rows, 8).
    """
    found = np.zeros((len(predictions), 8))
    for row, (prediction, right) in zip(found, zip(predictions, answers, strict=True), strict=True):
        scores = exact_match(prediction, right), f1_score(prediction, right)
        row[:3] = *scores, bool(right)
        row[3:5] = scores if right else (0, 0)
        row[5:7] = (0, 0) if right else scores
    found[:, 7] = 1
    return found


def squad_metrics(sums: Array) -> Metrics:
    """Return exact match and F1 from column sums of `squad_statistics`, shape (…, 8).

    They are told of both sorts of questions too where some of the sums have both; 0 for those that lack the sort.
    """
    em, f1, answerable, em_has, f1_has, em_no, f1_no, rows = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    metrics = {"f1": f1 / rows, "exact_match": em / rows}
    unanswerable = rows - answerable
    if unanswerable.any():
        metrics |= {"f1_no_answer": ratio(f1_no, unanswerable), "exact_match_no_answer": ratio(em_no, unanswerable)}
        if answerable.any():
            metrics |= {"f1_has_answer": ratio(f1_has, answerable), "exact_match_has_answer": ratio(em_has, answerable)}
    return metrics


def best_threshold(margins: Array, answered: Array, unanswered: Array) -> float:
    """Return the threshold of the no-answer margin with the highest sum of scores: above it, no answer is given.

    Of several equally good ones it is the nearest to 0. It lies midway between two rows' margins, or one beyond the last.

    Args:
        margins: Per row, the score of giving no answer less that of the best answer; finite.
        answered: Per row, the score that the best answer gets.
        unanswered: Per row, the score that no answer gets.
    """
    order = np.argsort(margins, kind="stable")
    ordered = np.asarray(margins, np.float64)[order]
    edges = np.concatenate([[ordered[0] - 2], ordered, [ordered[-1] + 2]])
    # Entry k: the first k rows of that order are answered.
    gained = np.concatenate([[0.0], np.cumsum(answered[order])])
    left = np.sum(unanswered) - np.concatenate([[0.0], np.cumsum(unanswered[order])])
    between, apart = (edges[1:] + edges[:-1]) / 2, edges[1:] > edges[:-1]
    totals = np.where(apart, gained + left, -np.inf)
    best = np.flatnonzero(totals >= totals.max() - 1e-9)
    return float(between[best[np.argmin(np.abs(between[best]))]])


def _references(answers: Sequence[str]) -> list[str]:
    """Return the answers, normalized, without those that normalize to nothing; the empty text alone if none is left."""
    return [text for answer in answers if (text := normalize(answer))] or [""]


def _f1(predicted: list[str], reference: list[str]) -> float:
    if not predicted or not reference:
        return float(predicted == reference)
    shared = sum((Counter(predicted) & Counter(reference)).values())
    return 2 * shared / (len(predicted) + len(reference))
