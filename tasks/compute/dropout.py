"""Dropout for CPUs: torch's draws a random number for each value, one after the other, which takes a fifth of a training step."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_STEPS = 2**16


@contextmanager
def fast_dropout(device: str) -> Iterator[None]:
    """Replace torch's dropout on the CPU by one that draws 16 bits a value, four values at once; other devices keep theirs.

    What is drawn comes out of torch's own generator, so that its saved state repeats it. The probability is rounded to a
    65,536th, and what is kept is scaled by that, so that the mean stays as it is.
    """
    if device != "cpu":
        yield
        return
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that another kernel is there already
        library.impl("dropout", _dropout, "AutogradCPU", allow_override=True)
    try:
        yield
    finally:
        library._destroy()


def _dropout(values: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    dropped = round(p * _STEPS)
    if not train or dropped == 0 or values.numel() == 0:
        return values
    if dropped == _STEPS:
        return values * 0
    result: torch.Tensor = _Dropout.apply(values, dropped)
    return result


class _Dropout(torch.autograd.Function):
    """Keeps of the values those whose 16 random bits, as a number, are not below `dropped`."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, dropped: int) -> torch.Tensor:
        count = values.numel()
        words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        keep = (words.view(torch.int16)[:count] >= dropped - _STEPS // 2).view(values.shape)
        ctx.save_for_backward(keep)
        ctx.scale = _STEPS / (_STEPS - dropped)
        return (values * keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (keep,) = ctx.saved_tensors
        return (gradient * keep).mul_(ctx.scale), None
