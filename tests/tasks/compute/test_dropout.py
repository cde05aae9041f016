"""Tests of dropout on the CPU."""

import warnings
from collections.abc import Iterator

import pytest
import torch

from tasks.compute.dropout import fast_dropout

VALUES = 400_000


@pytest.fixture
def fast() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fast_dropout():
            torch.manual_seed(0)
            yield


def drop(values: torch.Tensor, p: float) -> torch.Tensor:
    return torch.nn.functional.dropout(values, p, training=True)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_share_that_is_dropped_and_the_mean_are_as_asked(p: float, dtype: torch.dtype) -> None:
    found = drop(torch.ones(VALUES, dtype=dtype, requires_grad=True), p).detach().float()
    spread = (p * (1 - p) / VALUES) ** 0.5
    assert (found == 0).float().mean().item() == pytest.approx(p, abs=5 * spread + 2**-17)
    kept = found[found != 0]
    assert torch.all(kept == torch.tensor(1 / (1 - round(p * 2**16) / 2**16)).to(dtype).float())
    assert found.mean().item() == pytest.approx(1, abs=5 * spread / (1 - p) + (2**-8 if dtype is torch.bfloat16 else 2**-16))


@pytest.mark.usefixtures("fast")
def test_each_of_four_values_that_are_drawn_together_is_dropped_for_itself() -> None:
    dropped = (drop(torch.ones(VALUES, requires_grad=True), 0.5) == 0).view(-1, 4).float()
    assert dropped.mean(0).tolist() == pytest.approx([0.5] * 4, abs=0.01)
    correlations = torch.corrcoef(dropped.T) - torch.eye(4)
    assert correlations.abs().max() < 5 * (4 / VALUES) ** 0.5


@pytest.mark.usefixtures("fast")
def test_the_gradient_goes_through_what_was_kept() -> None:
    values = torch.randn(7, 11, 3).transpose(0, 2).requires_grad_()
    found = drop(values, 0.3)
    weights = torch.randn(found.shape)
    (found * weights).sum().backward()
    scale = 1 / (1 - round(0.3 * 2**16) / 2**16)
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.where(found == 0, 0.0, weights * scale))
    torch.testing.assert_close(found, torch.where(found == 0, 0.0, values * scale))


@pytest.mark.usefixtures("fast")
def test_the_state_of_the_generator_repeats_what_is_drawn() -> None:
    values = torch.ones(1003, requires_grad=True)
    state = torch.get_rng_state()
    first, second = drop(values, 0.5), drop(values, 0.5)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(drop(values, 0.5), first)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("p", [0.0, 1e-9, 1.0])
def test_all_or_nothing(p: float) -> None:
    assert torch.equal(drop(torch.ones(10, requires_grad=True), p), torch.full((10,), float(p < 1)))


@pytest.mark.usefixtures("fast")
def test_attention_drops_out_what_it_is_told_to() -> None:
    query, key, value = (torch.randn(2, 4, 64, 32, requires_grad=True) for _ in range(3))
    torch.manual_seed(1)
    found = torch.nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=0.5)
    torch.manual_seed(1)
    kept = drop(torch.ones(2, 4, 64, 64, requires_grad=True), 0.5)
    weights = (query @ key.mT / 32**0.5).softmax(-1) * kept
    torch.testing.assert_close(found, weights @ value, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("fast")
def test_a_layer_that_is_not_trained_drops_nothing() -> None:
    values = torch.ones(64, requires_grad=True)
    assert not torch.equal(torch.nn.Dropout(0.5)(values), values)
    assert torch.equal(torch.nn.Dropout(0.5).eval()(values), values)


def test_torch_has_its_own_back_afterwards() -> None:
    values = torch.ones(64, requires_grad=True)

    def drawn() -> torch.Tensor:
        torch.manual_seed(3)
        return drop(values, 0.5)

    own = drawn()
    with fast_dropout():
        assert not torch.equal(drawn(), own)
    assert torch.equal(drawn(), own)
