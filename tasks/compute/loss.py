"""The cross-entropy over a vocabulary, some rows at a time: all at once are gigabytes, to be written and read several times."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.loss.loss_utils import ForCausalLMLoss

from tasks.encoding.padding import IGNORED
from tasks.scoring.perplexity import tokens_at_once


@contextmanager
def loss_in_parts(model: PreTrainedModel) -> Iterator[None]:
    """Have a model that predicts the next token compute its loss in parts."""
    if model.loss_function is not ForCausalLMLoss:
        yield
        return
    model.loss_function = next_token_loss
    try:
        yield
    finally:
        del model._loss_function


def next_token_loss(
    logits: torch.Tensor,
    labels: torch.Tensor | None,
    vocab_size: int,
    num_items_in_batch: torch.Tensor | int | None = None,
    ignore_index: int = IGNORED,
    shift_labels: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """Return what transformers' loss does of the same arguments: nats, as a mean over what is to be predicted, or a sum per item.

    Args:
        logits: Shape (..., tokens, vocabulary).
        labels: Shape (..., tokens); each token's logits are for the label of the next one.
        vocab_size: Size of the vocabulary.
        num_items_in_batch: What the sum is divided by; None takes the number of labels that are not ignored.
        ignore_index: Label of what is not to be predicted.
        shift_labels: Labels that are moved already, in place of `labels`.
    """
    if shift_labels is None:
        assert labels is not None
        shift_labels = torch.nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    wanted = shift_labels.reshape(-1)
    places = (wanted != ignore_index).nonzero().squeeze(1)
    total: torch.Tensor = _CrossEntropy.apply(logits.reshape(-1, vocab_size), places, wanted[places])
    return total / (len(places) if num_items_in_batch is None else num_items_in_batch)


class _CrossEntropy(torch.autograd.Function):
    """The sum over some rows; the gradient is computed with it, while the logits are in the cache."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, places: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        ctx.rows, ctx.gradient = len(places), torch.zeros_like(logits) if ctx.needs_input_grad[0] else None
        total, at_once = 0.0, tokens_at_once(logits)
        for rows, wanted in zip(places.split(at_once), labels.split(at_once), strict=True):
            found = logits[rows].float()
            chosen, largest = found.gather(1, wanted[:, None]), found.amax(1, keepdim=True)
            sums = found.sub_(largest).exp_().sum(1, keepdim=True)
            total += float((sums.log() + largest - chosen).sum())
            if ctx.gradient is not None:
                found.div_(sums)[torch.arange(len(rows)), wanted] -= 1
                ctx.gradient[rows] = found.to(logits.dtype)
        return torch.tensor(total)

    @staticmethod
    def backward(ctx: Any, factor: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient, ctx.gradient = ctx.gradient, None  # it is used once
        # A mean over nothing has a factor that is no number.
        return (gradient.mul_(float(factor)) if ctx.rows else gradient), None, None
