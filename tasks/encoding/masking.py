"""Masked language modelling: which tokens are hidden, a function of numbers alone and so the same whenever it is asked for.

Source: Devlin et al. 2019, BERT, section 3.1 and appendix A.1 (arXiv 1810.04805): 15 % of the tokens are to be predicted; of them
80 % are replaced by the mask token, 10 % by a random one, and 10 % stay as they are.
"""

from collections.abc import Collection, Sequence

import numpy as np

from tasks.encoding.packing import IGNORED

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
