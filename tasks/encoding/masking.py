"""Masked language modelling: which tokens are hidden, a function of numbers alone and so the same whenever it is asked for.

Source: Devlin et al. 2019, BERT, section 3.1 and appendix A.1 (arXiv 1810.04805): 15 % of the tokens are to be predicted; of them
80 % are replaced by the mask token, 10 % by a random one, and 10 % stay as they are.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.encoding.padding import IGNORED, TOKEN_LABELS, padded
from tasks.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

MASKED = 0.15
_REPLACED_BY_MASK = 0.8
_REPLACED_AT_RANDOM = 0.1


def mask(
    ids: Sequence[int], *, mask_id: int, vocabulary: int, special: Collection[int], seed: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Hide some of the tokens, one at least if any may be hidden.

    Args:
        ids: The tokens.
        mask_id: The mask token.
        vocabulary: Random tokens are drawn from 0 to below it.
        special: Tokens that are never hidden.
        seed: What decides which tokens are hidden, and how.

    Returns:
        tuple: the tokens as the model reads them, and labels: a hidden token's id, else `IGNORED`.
    """
    rng = np.random.default_rng([int(number) for number in seed])
    candidates = [position for position, token in enumerate(ids) if token not in special]
    count = min(len(candidates), max(1, round(MASKED * len(candidates))))
    chosen = rng.permutation(len(candidates))[:count]
    fates, others = rng.random(count), rng.integers(0, vocabulary, count)
    read, labels = list(ids), [IGNORED] * len(ids)
    for index, fate, other in zip(chosen, fates, others, strict=True):
        position = candidates[index]
        labels[position] = ids[position]
        if fate < _REPLACED_BY_MASK:
            read[position] = mask_id
        elif fate < _REPLACED_BY_MASK + _REPLACED_AT_RANDOM:
            read[position] = int(other)
    return read, labels


@dataclass(frozen=True)
class Hiding:
    """How a tokenizer's tokens are hidden."""

    mask_id: int
    vocabulary: int
    special: frozenset[int]

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "Hiding":
        """Return how tokens of this tokenizer are hidden.

        Raises:
            ModelError: it has no mask token.
        """
        if tokenizer.mask_token_id is None:
            raise ModelError(
                f"The tokenizer of {tokenizer.name_or_path!r} has no mask token, as a decoder's; choose an encoder such as "
                "'bert-base-uncased', or the kind causal-lm."
            )
        return cls(int(tokenizer.mask_token_id), len(tokenizer), frozenset(tokenizer.all_special_ids))

    def __call__(self, ids: Sequence[int], seed: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the tokens as the model reads them, and their labels; see `mask`."""
        return mask(ids, mask_id=self.mask_id, vocabulary=self.vocabulary, special=self.special, seed=seed)


class DynamicMasking:
    """A collator that hides other tokens of a feature in each epoch, by the epoch's number and the feature's `draw` alone.

    Source: Liu et al. 2019, RoBERTa, section 4.1 (arXiv 1907.11692).
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", seed: int, pad_to_multiple_of: int = 8) -> None:
        self.tokenizer, self.hiding, self.seed, self.epoch = tokenizer, Hiding.of(tokenizer), seed, 0
        self.pad_to_multiple_of = pad_to_multiple_of

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's masks."""
        self.epoch = epoch

    def __call__(self, features: Sequence[dict[str, Any]]) -> "dict[str, torch.Tensor]":
        """Return a padded batch of `input_ids`, `attention_mask` and `labels`."""
        hidden = [self.hiding(feature["input_ids"], (self.seed, feature["draw"], self.epoch)) for feature in features]
        masked = [{"input_ids": ids, "labels": labels} for ids, labels in hidden]
        return padded(masked, self.tokenizer, self.pad_to_multiple_of, fills=TOKEN_LABELS)
