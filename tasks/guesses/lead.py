"""The beginning of a text in place of a summary.

Source: Nallapati et al. 2017, SummaRuNNer, section 5 (arXiv 1611.04230), for the lead as a baseline.
"""

import re
from collections.abc import Sequence
from itertools import islice

import numpy as np

from tasks.text import WORD


def median_words(texts: Sequence[str]) -> int:
    """Return the number of words, at least 1, that the texts have in the median."""
    counts = [sum(1 for _ in re.finditer(WORD, text)) for text in texts]
    return max(1, round(float(np.median(counts)))) if counts else 1


def lead(text: str, words: int) -> str:
    """Return a text up to the end of its first so many words."""
    ends = [word.end() for word in islice(re.finditer(WORD, text), words)]
    return text[: max(ends, default=0)].strip()
