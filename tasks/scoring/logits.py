"""A language model's logits where they are wanted: over a whole vocabulary, each costs as much as some of the model's layers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.encoding.padding import IGNORED
from tasks.kinds.kind import Array

if TYPE_CHECKING:
    import torch


def logits_at(places: "torch.Tensor", model: Any, **inputs: Any) -> "torch.Tensor":
    """Return the logits of some tokens, shape (places, vocabulary); others are computed only where that cannot be avoided.

    Args:
        places: Which tokens, bool of shape (batch, tokens).
        model: A model with logits for each token, of shape (batch, tokens, vocabulary), or one that wraps it to train in
            several processes.
        inputs: What it reads.
    """
    # The last layer is all that is left to do for each token alone.
    last = getattr(model, "module", model).get_output_embeddings()

    def select(_: Any, arguments: tuple[Any, ...]) -> Any:
        hidden, *others = arguments
        return (hidden[places][None], *others) if hidden.shape[:-1] == places.shape else None

    hook = None if last is None else last.register_forward_pre_hook(select)
    try:
        found: torch.Tensor = model(**inputs).logits
    finally:
        if hook is not None:
            hook.remove()
    # Some models take their last layer's weights without calling it.
    return found[places] if found.shape[:-1] == places.shape else found.flatten(0, 1)


def logits_of_labels(labels: "torch.Tensor", model: Any, **inputs: Any) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Return the logits of the tokens that have a label, shape (places, vocabulary), their labels, and where, (batch, tokens).

    Args:
        labels: What each token's logits are to tell, of shape (batch, tokens), or `IGNORED`.
        model: See `logits_at`.
        inputs: What it reads.
    """
    places = labels != IGNORED
    return logits_at(places, model, **inputs), labels[places], places


def logits_of_next(batch: Mapping[str, Any], model: Any) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Return what `logits_of_labels` does of a decoder and its batch with `labels`: each token's logits tell the next label."""
    from torch.nn.functional import pad

    inputs = {name: value for name, value in batch.items() if name != "labels"}
    following = pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    return logits_of_labels(following, model, **inputs, use_cache=False)


def sums_by_row(places: "torch.Tensor", *values: Any) -> Array:
    """Return sums over the places of each row, in float64 and of shape (batch, values).

    Args:
        places: Which tokens, bool of shape (batch, tokens).
        values: One number for each of them, or one for all.
    """
    rows = places.nonzero()[:, 0].cpu().numpy()
    weights = [np.broadcast_to(np.asarray(value, np.float64), rows.shape) for value in values]
    return np.stack([np.bincount(rows, weight, len(places)) for weight in weights], 1)
