"""Dropout on a CPU: torch's draws number after number on one core, and its fused attention knows none."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_STEPS = 2**16
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@contextmanager
def attention_with_dropout() -> Iterator[None]:
    """Have models that use torch's own attention compute it step by step where it is dropped out.

    torch does the same there, but with care for rows of nothing but padding that takes longer than its matrix products. Models
    go on calling it by its name, by which some tell how they are to be masked.
    """
    ALL_ATTENTION_FUNCTIONS["sdpa"] = _attend
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Return (batch, tokens, heads, width) as transformers' function around torch's attention does, and takes its arguments."""
    if not dropout or any(other is not None for other in (others.get("position_bias"), others.get("softcap"))):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **others
        )
    groups, tokens = getattr(module, "num_key_value_groups", 1), query.shape[2]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.mT
    if attention_mask is None and causal and tokens > 1:
        attention_mask = torch.ones(tokens, key.shape[2], dtype=torch.bool).tril()
    if attention_mask is not None:
        scores += _added(attention_mask, scores.dtype)
    weights = torch.nn.functional.dropout(scores.softmax(-1), dropout)
    return (weights @ value).transpose(1, 2).contiguous(), None


def _added(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a mask as what is added to scores, of their type, and finite: a row of nothing but padding stays a number."""
    least = torch.finfo(dtype).min
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, least)
    return mask.to(dtype).clamp_(min=least) if mask.dtype != dtype else mask


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
