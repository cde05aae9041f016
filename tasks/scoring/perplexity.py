"""How surprised language models are: metrics as functions of sums of nats, tokens and bytes."""

import math
from typing import TYPE_CHECKING

import numpy as np

from tasks.kinds.kind import Array, Metrics
from tasks.scoring.ratios import ratio

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

# The greatest whose exponential is a finite float64.
_MOST_NATS = 709.0
# 8 MB of them stay in a core's cache.
_LOGITS_AT_ONCE = {"cpu": 2**21}
_ELSEWHERE = 2**26


def tokens_at_once(logits: "torch.Tensor") -> int:
    """Return for how many tokens logits are best computed with in fp32: those of a whole batch can be larger than the model.

    Args:
        logits: Shape (..., vocabulary).
    """
    return max(1, _LOGITS_AT_ONCE.get(logits.device.type, _ELSEWHERE) // logits.shape[-1])


def surprise(logits: "torch.Tensor", labels: "torch.Tensor") -> Array:
    """Return the nats that each label costs, in float64.

    Args:
        logits: Shape (places, vocabulary).
        labels: What stands at each place, shape (places,).
    """
    import torch

    at_once = tokens_at_once(logits)
    parts = zip(torch.split(logits, at_once), torch.split(labels, at_once), strict=True)
    costs = [torch.nn.functional.cross_entropy(some.float(), wanted, reduction="none") for some, wanted in parts]
    found: Array = torch.cat(costs).cpu().numpy().astype(np.float64)
    return found


def causal_metrics(nats: Array, tokens: Array, size: Array) -> Metrics:
    """Return bits per byte, perplexity and loss (nats per token) of predicted tokens; 0 nats where there is nothing.

    Perplexity and loss depend on how a tokenizer cuts the text, bits per byte does not.
    Source: Gao et al. 2020, The Pile, section 3.1 (arXiv 2101.00027), for bits per UTF-8 byte; Jelinek et al. 1977 for the
    perplexity.

    Args:
        nats: Summed over the tokens.
        tokens: Number of predicted tokens.
        size: UTF-8 bytes of the predicted text.
    """
    loss = ratio(nats, tokens)
    return {"bits_per_byte": ratio(nats, size) / math.log(2), "perplexity": perplexity(loss), "loss": loss}


def masked_metrics(nats: Array, tokens: Array, right: Array) -> Metrics:
    """Return loss (nats per masked token), its exponential, and the fraction of masked tokens that were guessed right.

    Args:
        nats: Summed over the masked tokens.
        tokens: Number of masked tokens.
        right: Number of those whose most probable token is the true one.
    """
    loss = ratio(nats, tokens)
    return {"loss": loss, "pseudo_perplexity": perplexity(loss), "accuracy": ratio(right, tokens)}


def known_ratio(part: Array, whole: Array) -> "pa.Array":
    """Return a column of ratios, null where the whole is 0."""
    import pyarrow as pa

    return pa.array(ratio(part, whole), pa.float64(), mask=np.asarray(whole) == 0)


def perplexity(loss: Array) -> Array:
    """Return the exponential of nats per token, finite in any case."""
    found: Array = np.exp(np.minimum(loss, _MOST_NATS))
    return found
