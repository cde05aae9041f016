"""The part of a context that stands among most of a question's words, in place of an answer.

Source: Richardson et al. 2013, MCTest, section 4.1 (aclanthology.org/D13-1020), for the sliding window and the weight of a word;
Rajpurkar et al. 2016, SQuAD, section 5.1 (arXiv 1606.05250), for leaving the answer itself out of the window.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tasks.encoding.spans import NO_SPAN
from tasks.encoding.windows import OUTSIDE
from tasks.kinds.kind import Predictions
from tasks.text import WORD


def overlap(questions: Sequence[str], contexts: Sequence[str], words: int) -> Predictions:
    """Return of each row one span, and 0 as the score of no answer.

    Args:
        questions: Per row.
        contexts: Per row.
        words: Words of a span.

    Returns:
        dict: `spans`, shape (rows, 1, 3), as in `best_spans`; `nulls`, shape (rows,).
    """
    found = [best_window(question, context, words) for question, context in zip(questions, contexts, strict=True)]
    return {"spans": np.array(found, np.float64).reshape(-1, 1, 3), "nulls": np.zeros(len(found))}


def best_window(question: str, context: str, words: int) -> tuple[int, int, float]:
    """Return first character, character after the last and score of the best span of so many words; of equal ones the first.

    The score is the weight of the question's words that stand before and after the span, on either side as near as the question
    is long. A word that occurs C times in the context weighs log(1 + 1 / C).
    """
    asked = [match.group().lower() for match in re.finditer(WORD, question)]
    places = list(re.finditer(WORD, context))
    if not places:
        return OUTSIDE, OUTSIDE, NO_SPAN
    read = [match.group().lower() for match in places]
    counts, wanted = Counter(read), set(asked)
    weights = [np.log1p(1 / counts[word]) if word in wanted else 0.0 for word in read]
    until = np.concatenate([[0.0], np.cumsum(weights)])
    size = min(words, len(read))
    starts = np.arange(len(read) - size + 1)
    left, right = np.maximum(0, starts - len(asked)), np.minimum(len(read), starts + size + len(asked))
    scores = until[right] - until[left] - (until[starts + size] - until[starts])
    # Sums that are equal but for rounding: the first counts.
    best = int(np.flatnonzero(scores >= scores.max() - 1e-9)[0])
    return places[best].start(), places[best + size - 1].end(), float(scores[best])
