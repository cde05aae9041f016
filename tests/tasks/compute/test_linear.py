"""Tests of linear layers on the CPU."""

from typing import Any

import pytest
import torch
from torch.nn.functional import linear

from tasks.compute import linear as module
from tasks.compute.linear import use_onednn

SHAPES = [(5, 7), (7,), (2, 3, 7), (0, 7), (2, 0, 7)]
CALLED = "mkldnn::_linear_pointwise"
# Not every processor has bf16.
FAST = [torch.float32, torch.bfloat16] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else [torch.float32]


@pytest.fixture(autouse=True)
def _replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have oneDNN take all that it can here."""
    least = dict.fromkeys(FAST, 0)
    monkeypatch.setattr(module, "_least_outputs", lambda: least)
    use_onednn()


def operators(function: Any, *arguments: Any) -> set[str]:
    """Return the names of the operators that a call runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        function(*arguments)
    return {event.key for event in found.key_averages()}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_values_and_gradients_are_those_of_the_formula(dtype: torch.dtype, shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(size).to(dtype).requires_grad_() for size in (shape, (4, 7), (4,))][: 3 if bias else 2]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    found, expected = linear(*leaves), exact[0] @ exact[1].t() + (exact[2] if bias else 0)
    assert found.dtype is dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.04}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    gradient = torch.randn(found.shape)
    pairs = (torch.autograd.grad(one, of, gradient.to(one.dtype)) for one, of in ((found, leaves), (expected, exact)))
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=2 * tolerance)
    with torch.inference_mode():
        torch.testing.assert_close(linear(*leaves).double(), expected.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", FAST, ids=str)
def test_values_and_weights_may_lie_across(dtype: torch.dtype) -> None:
    values, weight = torch.randn(6, 5, 7).to(dtype).transpose(0, 1), torch.randn(7, 4).to(dtype).t()
    assert CALLED in operators(linear, values, weight)
    torch.testing.assert_close(linear(values, weight), values @ weight.t(), rtol=0.02, atol=0.02)


def test_a_frozen_weight_gets_no_gradient_and_lets_it_through() -> None:
    values, weight, bias = torch.randn(3, 5, requires_grad=True), torch.randn(2, 5), torch.randn(2, requires_grad=True)
    linear(values, weight, bias).sum().backward()
    assert weight.grad is None
    assert values.grad is not None
    torch.testing.assert_close(values.grad, weight.sum(0).expand(3, 5))
    torch.testing.assert_close(bias.grad, torch.full((2,), 3.0))


def test_it_is_used_under_autocast_to_predict_and_not_to_learn_in_bf16() -> None:
    layer, values = torch.nn.Linear(7, 4), torch.randn(5, 7)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.inference_mode():
            assert (CALLED in operators(layer, values)) == (torch.bfloat16 in FAST)
        assert CALLED not in operators(layer, values)
        layer(values).float().sum().backward()
    assert CALLED in operators(layer, values), "fp32 learns with it"
    torch.testing.assert_close(layer.weight.grad, values.sum(0).expand(4, 7), rtol=0.02, atol=0.02)


def test_where_mkl_is_at_home_torchs_own_product_is_taken_for_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = {}
    for name, capabilities in {
        "Intel": {"cpu_name": "Intel Xeon", "avx512_f": True},
        "Zen 2": {"cpu_name": "AMD EPYC", "avx512_f": False},
        "Zen 4": {"cpu_name": "AMD EPYC", "avx512_f": True},
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(torch.cpu, "get_capabilities", lambda capabilities=capabilities: capabilities)
            module._least_outputs.cache_clear()
            found[name] = [CALLED in operators(linear, torch.randn(3, 8), torch.randn(width, 8)) for width in (16, 9000)]
    module._least_outputs.cache_clear()
    assert found == {"Intel": [False, False], "Zen 2": [False, True], "Zen 4": [True, True]}


def test_where_onednn_has_no_bf16_torchs_own_product_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    module._least_outputs.cache_clear()
    values, weight = torch.randn(3, 8).bfloat16(), torch.randn(16, 8).bfloat16()
    with torch.inference_mode():
        assert CALLED not in operators(linear, values, weight)
    module._least_outputs.cache_clear()


def test_without_onednn_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_linear_pointwise", None)
    assert use_onednn.__wrapped__() is None
