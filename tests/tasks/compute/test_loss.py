"""Tests of the loss over a vocabulary that is computed in parts, against torch's own."""

import math
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from tasks.compute import linear
from tasks.compute.linear import use_onednn
from tasks.compute.loss import vocabulary_loss
from tasks.scoring import perplexity

VOCABULARY = 53


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(perplexity._LOGITS_AT_ONCE, "cpu", 3 * VOCABULARY)


def example(dtype: torch.dtype = torch.float32, places: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits, some of them large, and labels."""
    generator = torch.Generator().manual_seed(0)
    logits = 20 * torch.randn(places, VOCABULARY, generator=generator)
    return logits.to(dtype).requires_grad_(), torch.randint(VOCABULARY, (places,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("places", [1, 3, 10])
def test_loss_and_gradient_are_torchs(dtype: torch.dtype, places: int) -> None:
    found = []
    for function in (partial(vocabulary_loss, keep=True), lambda logits, labels: cross_entropy(logits.float(), labels)):
        logits, labels = example(dtype, places)
        before = logits.detach().clone()
        value = function(logits, labels)
        (3 * value).backward()
        assert value.dtype is torch.float32
        assert torch.equal(logits.detach(), before)
        assert logits.grad is not None
        found.append((value.detach(), logits.grad))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=0)
    exact = dtype is torch.float32
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5 if exact else 2**-7, atol=1e-7 if exact else 1e-5)


def test_the_mean_over_nothing_is_no_number_and_moves_nothing() -> None:
    logits, labels = example(places=0)
    value = vocabulary_loss(logits, labels, keep=True)
    assert value.isnan()
    (torch.nan_to_num(value) * 0).backward()
    assert logits.grad is not None
    assert logits.grad.shape == (0, VOCABULARY)


def test_without_gradients_there_is_the_loss_alone() -> None:
    logits, labels = example()
    expected = vocabulary_loss(logits, labels, keep=True).item()
    with torch.no_grad():
        assert vocabulary_loss(logits, labels, keep=True).item() == expected


def test_logits_that_nobody_reads_are_written_over_where_what_made_them_does_not_need_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_onednn()
    monkeypatch.setattr(linear, "_VOCABULARY", VOCABULARY)
    bf16 = 0 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else math.inf
    monkeypatch.setattr(linear, "_least_outputs", lambda: {torch.bfloat16: bf16, torch.float32: 0})
    written, gradients = [], []
    for made in (
        lambda hidden, weight: hidden @ weight.t(),
        lambda hidden, weight: torch.nn.functional.linear(hidden[None], weight).flatten(0, 1),
        lambda hidden, weight: torch.nn.functional.linear(hidden.bfloat16(), weight.bfloat16()),
        lambda hidden, weight: (hidden @ weight.t()).tanh(),
    ):
        for keep in (True, False):
            torch.manual_seed(0)
            hidden, weight = (torch.randn(size, requires_grad=True) for size in ((10, 7), (VOCABULARY, 7)))
            logits = made(hidden, weight)
            before = logits.detach().clone()
            vocabulary_loss(logits, torch.arange(10), keep=keep).backward()
            written.append(not torch.equal(logits.detach(), before))
            gradients.append((hidden.grad, weight.grad))
    assert written == [False, True, False, True, False, True, False, False]
    for kept, over in zip(gradients[::2], gradients[1::2], strict=True):
        torch.testing.assert_close(kept, over)
