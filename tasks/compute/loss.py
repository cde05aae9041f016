"""The cross-entropy over a vocabulary, some tokens at a time: all at once are gigabytes, to be written and read several times."""

from typing import Any

import torch

from tasks.scoring.perplexity import tokens_at_once

# What makes logits and, to go backward, does not need them.
_VIEWS = {"ViewBackward0", "UnsafeViewBackward0"}
_PRODUCTS = {"AddmmBackward0", "MmBackward0", "_LinearBackward"}


def vocabulary_loss(logits: torch.Tensor, labels: torch.Tensor, *, keep: bool) -> torch.Tensor:
    """Return the nats that the labels cost, in fp32 and as a mean over them; over none it is no number.

    Args:
        logits: Shape (places, vocabulary).
        labels: What stands at each place, shape (places,).
        keep: Whether the logits are read afterwards; else, on a CPU, their gradient may be written over them.
    """
    if logits.device.type != "cpu":
        return torch.nn.functional.cross_entropy(logits.float(), labels)
    total: torch.Tensor = _CrossEntropy.apply(logits, labels, not keep and _of_a_product(logits))
    return total / len(labels)


def _of_a_product(logits: torch.Tensor) -> bool:
    node = logits.grad_fn
    while node is not None and node.name() in _VIEWS:
        node = node.next_functions[0][0]
    return node is not None and node.name() in _PRODUCTS


class _CrossEntropy(torch.autograd.Function):
    """The sum over the places; the gradient is computed with it, while the logits are in the cache."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor, over: bool) -> torch.Tensor:
        total, at_once = 0.0, tokens_at_once(logits)
        ctx.gradient = None
        if ctx.needs_input_grad[0]:
            ctx.gradient = logits.detach() if over else torch.empty_like(logits)
        for start in range(0, len(labels), at_once):
            places = slice(start, start + at_once)
            wanted = labels[places, None]
            found = logits[places].to(torch.float32, copy=True)
            chosen, largest = found.gather(1, wanted), found.amax(1, keepdim=True)
            sums = found.sub_(largest).exp_().sum(1, keepdim=True)
            total += float((sums.log() + largest - chosen).sum())
            if ctx.gradient is not None:
                ctx.gradient[places] = found.div_(sums).scatter_add_(1, wanted, torch.full_like(chosen, -1))
        return torch.tensor(total)

    @staticmethod
    def backward(ctx: Any, factor: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient, ctx.gradient = ctx.gradient, None  # it is used once
        return gradient.mul_(float(factor)), None, None
