"""Linear layers on a CPU by oneDNN: torch adds a bias in passes of its own, and its MKL can be slow on AMD's."""

import math
from functools import cache
from typing import Any

import torch

_linear_pointwise: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""oneDNN's product with the bias in it, as torch's own compiler calls it. Not every build of torch has it."""
_VOCABULARY = 8192
"""Outputs from which on a layer is taken for one with logits of tokens."""


@cache
def use_onednn() -> torch.library.Library | None:
    """Replace `torch.nn.functional.linear` on the CPU, for the rest of this process, where oneDNN is the faster.

    That is in bf16 without gradients, and with them for logits of tokens; in fp32 on AMD's processors with AVX512, and for logits
    of tokens on those without. Results differ from torch's by rounding.
    """
    if _linear_pointwise is None or not torch.backends.mkldnn.is_available():
        return None
    library = torch.library.Library("aten", "IMPL")
    library.impl("linear", _product, "CPU")
    library.impl("linear", _linear, "AutogradCPU")
    return library  # with it the change would go


@cache
def _least_outputs() -> dict[torch.dtype, float]:
    """Return how many outputs, or inputs, a layer must have for oneDNN to be the faster, by precision."""
    processor = torch.cpu.get_capabilities()
    fp32 = math.inf
    if "AMD" in str(processor.get("cpu_name", "")):
        # With AVX2 alone MKL keeps up but for layers as large as a vocabulary.
        fp32 = 0 if processor.get("avx512_f") else _VOCABULARY
    # Asked for all the same, it refuses where torch's own product goes another way.
    bf16 = 0 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else math.inf
    return {torch.bfloat16: bf16, torch.float32: fp32}


def _suits(values: torch.Tensor, weight: torch.Tensor) -> bool:
    same = values.dtype == weight.dtype and values.dim() > 1 and weight.dim() == 2 and values.numel() > 0
    return same and max(weight.shape) >= _least_outputs().get(values.dtype, math.inf)


def _product(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return values, of shape (..., inputs), times the transpose of the weight, of (outputs, inputs), and the bias added."""
    if not _suits(values, weight):
        return _torchs_own(values, weight, bias)
    result: torch.Tensor = _linear_pointwise(values, weight, bias, "none", [], "")
    return result


def _torchs_own(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if bias is None or values.dim() < 2 or weight.dim() != 2:
        found = values @ weight.t()
        return found if bias is None else found + bias
    return torch.addmm(bias, values.flatten(0, -2), weight.t()).view(*values.shape[:-1], len(weight))


def _linear(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if not torch.is_grad_enabled() or not any(one is not None and one.requires_grad for one in (values, weight, bias)):
        return _product(values, weight, bias)
    # In bf16 the gradients take as long either way, and torch's own need no Python; but a vocabulary's bias is long to copy.
    if (values.dtype != torch.float32 and len(weight) < _VOCABULARY) or not _suits(values, weight):
        return _torchs_own(values, weight, bias)
    result: torch.Tensor = _Linear.apply(values, weight, bias)
    return result


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(values, weight)
        return _product(values, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, weight = ctx.saved_tensors
        of_values, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            _product(gradient, weight.t()) if of_values else None,
            rows.t() @ values.flatten(0, -2) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )
