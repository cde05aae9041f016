"""What tokens cost by how frequent they are, whatever stands around them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tasks.encoding.padding import IGNORED
from tasks.kinds.kind import Array

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Unigram:
    """Probabilities of a tokenizer's tokens: their shares of those counted, with one more of each.

    Source: Chen and Goodman 1999, An empirical study of smoothing techniques for language modeling, section 2.1, for adding one.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        # Numbers may have gaps.
        self._counts = np.zeros(max(len(tokenizer), *tokenizer.get_vocab().values(), 0) + 1, np.int64)
        self._vocabulary = len(tokenizer)

    def count(self, labels: Sequence[int]) -> None:
        """Count the tokens of train, but for `IGNORED`."""
        np.add.at(self._counts, _wanted(labels), 1)

    def of(self, labels: Sequence[int]) -> tuple[float, int, int]:
        """Return the nats that tokens cost, their number, and how many are the most frequent of all; but for `IGNORED`."""
        tokens = _wanted(labels)
        nats = np.log(self._counts.sum() + self._vocabulary) - np.log1p(self._counts[tokens])
        return float(nats.sum()), len(tokens), int((tokens == self._counts.argmax()).sum())


def _wanted(labels: Sequence[int]) -> Array:
    tokens = np.asarray(labels, np.int64)
    wanted: Array = tokens[tokens != IGNORED]
    return wanted
