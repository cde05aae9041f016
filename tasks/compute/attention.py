"""Attention under the name by which models know torch's, computed as suits the device and what is wanted of it."""

from functools import cache
from typing import Any

import torch
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_MOST_SCORES = 2**25
"""Scores beyond which torch's fused attention is used, which does not keep them: 64 MB in bf16."""


def use_attention() -> None:
    """Have models that use torch's own attention use `attend` for the rest of this process.

    It has the same name, by which some models tell how they are to be masked.
    """
    ALL_ATTENTION_FUNCTIONS["sdpa"] = attend


def for_first_token(module: Any, alone: bool) -> None:
    """Have `attend` compute a module's attention for each row's first token alone, or for all of them again.

    All tokens then get what the first one does. The module must see all tokens alike, whichever asks.
    """
    module._attends_for_first_token = alone


def attend(
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
    """Return (batch, tokens, heads, width) as transformers' function around torch's attention does, and take its arguments.

    On a CPU it goes step by step where that is faster: with dropout, which torch computes with care for rows of nothing but
    padding that takes longer than the matrix products, and to score in bf16.
    """
    asking = query.shape[2]
    if getattr(module, "_attends_for_first_token", False):
        query = query[:, :, :1]
        attention_mask = None if attention_mask is None else attention_mask[:, :, :1]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    causal = causal and attention_mask is None and query.shape[2] > 1
    special = any(others.get(name) is not None for name in ("position_bias", "softcap"))
    groups = getattr(module, "num_key_value_groups", 1)
    if query.device.type == "cpu" and not special and (dropout or _scores_by_steps(query, key, causal, groups)):
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
        found = _by_steps(query, key, value, attention_mask, dropout, scaling, causal)
    else:
        found, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=causal, **others
        )
    return found.expand(-1, asking, -1, -1), None


def _scores_by_steps(query: torch.Tensor, key: torch.Tensor, causal: bool, groups: int) -> bool:
    """Tell whether steps are faster than torch's own: it is as fast in fp32 and with AMX, leaves out half of what is causal."""
    if query.dtype != torch.bfloat16 or causal or groups > 1 or torch.is_grad_enabled() or _has_amx():
        return False
    return query.shape[:3].numel() * key.shape[2] <= _MOST_SCORES


@cache
def _has_amx() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def _by_steps(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
    causal: bool,
) -> torch.Tensor:
    """Return attention whose scores and weights are rounded to the queries' own precision."""
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.mT
    if causal:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    if mask is not None:
        scores += _added(mask, scores.dtype)
    weights = torch.nn.functional.dropout(_softmax(scores), dropout)
    return (weights @ value).transpose(1, 2).contiguous()


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    """Return the softmax over the last dimension. In bf16 torch's goes value by value through what is left of 32."""
    if scores.dtype != torch.bfloat16 or scores.shape[-1] % 32 == 0:
        return scores.softmax(-1)
    result: torch.Tensor = _Softmax.apply(scores)
    return result


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor) -> torch.Tensor:
        weights = scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (weights,) = ctx.saved_tensors
        return torch._softmax_backward_data(gradient, weights, -1, weights.dtype)


def _added(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a mask as what is added to scores, of their type, and finite: a row of nothing but padding stays a number."""
    least = torch.finfo(dtype).min
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, least)
    return mask.to(dtype).clamp_(min=least) if mask.dtype != dtype else mask
