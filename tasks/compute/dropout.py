"""Dropout on a CPU: torch's draws number after number on one core."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_STEPS = 2**16
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@contextmanager
def fast_dropout() -> Iterator[None]:
    """Replace torch's dropout on the CPU by one that draws 16 bits a value, four values at once.

    Each call draws a seed out of torch's own generator, so that its saved state repeats it. The probability is rounded to a
    65,536th, and what is kept is scaled by that, so that the mean stays as it is.
    """
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
    """Keeps of the values those whose 16 random bits, as a signed number, are not below `dropped` - 32,768."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, dropped: int) -> torch.Tensor:
        seed = int(torch.randint(2**63 - 1, ()))
        words = np.random.SFC64(seed).random_raw(-(-values.numel() // 4))
        drawn = torch.from_numpy(words.view(np.int16))[: values.numel()].view(values.shape)
        # In place, a comparison of numbers gives numbers: it takes a tenth of the time that one with a result of truths does.
        keep = drawn.ge_(dropped - _STEPS // 2).to(_BITS[values.element_size()])
        ctx.save_for_backward(keep)
        ctx.scale = _STEPS / (_STEPS - dropped)
        return _kept(values, keep, ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (keep,) = ctx.saved_tensors
        return _kept(gradient, keep, ctx.scale), None


def _kept(values: torch.Tensor, keep: torch.Tensor, scale: float) -> torch.Tensor:
    """Return the scaled values where `keep` is 1, and 0 where it is 0. Their bits are multiplied: faster than `torch.where`."""
    return (values.contiguous().view(keep.dtype) * keep).view(values.dtype).mul_(scale)
