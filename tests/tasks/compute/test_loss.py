"""Tests of the loss over a vocabulary that is computed in parts."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, GPT2Config
from transformers.loss.loss_utils import ForCausalLMLoss

from tasks.compute import loss
from tasks.compute.loss import loss_in_parts, next_token_loss
from tasks.compute.smoothing import smoothed_loss
from tasks.scoring import perplexity

VOCABULARY = 53


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(perplexity._LOGITS_AT_ONCE, "cpu", 3 * VOCABULARY)


def example(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits, some of them large, and labels of which some are ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = 20 * torch.randn(2, 11, VOCABULARY, generator=generator)
    labels = torch.randint(VOCABULARY, (2, 11), generator=generator)
    labels[0, :4] = labels[1, 6] = -100
    return logits.to(dtype).requires_grad_(), labels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("items", [None, 7, torch.tensor(7)], ids=["mean", "sum per item", "sum per item in a tensor"])
def test_loss_and_gradient_are_those_of_transformers(dtype: torch.dtype, items: int | torch.Tensor | None) -> None:
    found = []
    for function in (next_token_loss, ForCausalLMLoss):
        logits, labels = example(dtype)
        value = function(logits, labels, VOCABULARY, num_items_in_batch=items)
        (3 * value).backward()
        assert value.dtype is torch.float32
        assert logits.grad is not None
        found.append((value.detach(), logits.grad))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=0)
    exact = dtype is torch.float32
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5 if exact else 2**-7, atol=1e-7 if exact else 1e-5)


def test_labels_that_are_moved_already_are_taken_as_they_are() -> None:
    logits, labels = example()
    moved = torch.nn.functional.pad(labels, (0, 1), value=-100)[..., 1:]
    expected = next_token_loss(logits, labels, VOCABULARY).item()
    assert next_token_loss(logits, None, VOCABULARY, shift_labels=moved).item() == expected


def test_labels_can_be_smoothed() -> None:
    found = []
    for function in (next_token_loss, ForCausalLMLoss):
        logits, labels = example()
        smoothed_loss(function(logits, labels, VOCABULARY), logits, labels, 0.1, shifted=True).backward()
        found.append(logits.grad)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-7)


def test_the_mean_over_nothing_is_no_number_and_moves_nothing() -> None:
    logits, labels = example()
    value = next_token_loss(logits, torch.full_like(labels, -100), VOCABULARY)
    assert value.isnan()
    (torch.nan_to_num(value) * 0).backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_without_gradients_there_is_the_loss_alone() -> None:
    logits, labels = example()
    expected = next_token_loss(logits, labels, VOCABULARY).item()
    with torch.no_grad():
        assert next_token_loss(logits, labels, VOCABULARY).item() == expected


@pytest.mark.parametrize(
    "config", [GPT2Config(n_layer=1), BertConfig(num_hidden_layers=1, is_decoder=True)], ids=["gpt2", "bert"]
)
def test_a_decoder_learns_by_it_and_has_its_own_back(config: GPT2Config | BertConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config.hidden_size, config.vocab_size = 48, VOCABULARY
    model = AutoModelForCausalLM.from_config(config).eval()
    tokens = torch.randint(VOCABULARY, (2, 9))
    own = model(input_ids=tokens, labels=tokens).loss.item()
    with loss_in_parts(model):
        monkeypatch.setattr(loss._CrossEntropy, "apply", lambda *_: torch.tensor(32.0))
        assert model(input_ids=tokens, labels=tokens).loss.item() == 2.0
        monkeypatch.undo()
        assert model(input_ids=tokens, labels=tokens).loss.item() == pytest.approx(own, rel=1e-6)
    assert model.loss_function is ForCausalLMLoss


def test_other_models_keep_their_loss() -> None:
    model = AutoModelForMaskedLM.from_config(BertConfig(num_hidden_layers=1, hidden_size=48, vocab_size=VOCABULARY))
    own = model.loss_function
    with loss_in_parts(model):
        assert model.loss_function is own
