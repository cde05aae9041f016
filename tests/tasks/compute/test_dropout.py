"""Tests of dropout on the CPU."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from transformers import AutoModel, BertConfig, DeepseekV32Config, GPT2Config, LlamaConfig, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tasks.compute import dropout
from tasks.compute.dropout import attention_with_dropout, fast_dropout

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


def attended(config: PreTrainedConfig, *, packed: bool, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradient of the embeddings, with torch's own attention and with the other, both with the same dropout of 0.2."""
    torch.manual_seed(0)
    model = AutoModel.from_config(config, attn_implementation="sdpa").double().train()
    tokens, mask = torch.randint(50, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[1, 9 - padding :] = 0
    found, seen = [], mask.bool()
    if packed:
        mask = torch.zeros(2, 1, 9, 9).masked_fill(torch.ones(9, 9, dtype=torch.bool).triu(4), torch.finfo(torch.float32).min)
    for context in (nullcontext(), attention_with_dropout()):
        torch.manual_seed(1)
        model.zero_grad()
        with context:
            hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state
        (hidden[seen] ** 3).sum().backward()
        found.append(next(model.get_input_embeddings().parameters()).grad.clone())
    return found[0], found[1]


SMALL = {"num_hidden_layers": 2, "hidden_size": 48, "vocab_size": 50}
ATTENTIVE = {
    "bert": BertConfig(**SMALL, intermediate_size=64, hidden_dropout_prob=0, attention_probs_dropout_prob=0.2),
    "bert-decoder": BertConfig(**SMALL, is_decoder=True, hidden_dropout_prob=0, attention_probs_dropout_prob=0.2),
    "gpt2": GPT2Config(**SMALL, attn_pdrop=0.2, resid_pdrop=0, embd_pdrop=0),
    "llama": LlamaConfig(**SMALL, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, attention_dropout=0.2),
}


@pytest.mark.parametrize("name", ATTENTIVE)
@pytest.mark.parametrize(("packed", "padding"), [(False, 0), (False, 3), (True, 0)], ids=["whole", "padded", "packed"])
def test_attention_step_by_step_is_that_of_torch(name: str, packed: bool, padding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropout, "sdpa_attention_forward", lambda *_, **__: pytest.fail("torch's attention was used"))
    with fast_dropout():
        fused, plain = attended(copy.deepcopy(ATTENTIVE[name]), packed=packed, padding=padding)
    torch.testing.assert_close(plain, fused, atol=1e-10, rtol=1e-8)


def test_without_dropout_torchs_attention_is_used_and_is_back_afterwards() -> None:
    torch.manual_seed(0)
    model = AutoModel.from_config(copy.deepcopy(ATTENTIVE["bert"])).eval()
    tokens = torch.randint(50, (2, 9))
    expected = model(input_ids=tokens).last_hidden_state
    with attention_with_dropout():
        assert torch.equal(model(input_ids=tokens).last_hidden_state, expected)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward


def test_a_row_of_nothing_but_padding_stays_a_number() -> None:
    model = AutoModel.from_config(copy.deepcopy(ATTENTIVE["bert"])).train()
    with attention_with_dropout(), torch.autocast("cpu", torch.bfloat16):
        mask = torch.zeros(1, 1, 5, 5).fill_(torch.finfo(torch.float32).min)
        assert model(input_ids=torch.ones(1, 5, dtype=torch.long), attention_mask=mask).last_hidden_state.isfinite().all()


def test_a_model_with_another_attention_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropout, "_attend", lambda *_, **__: pytest.fail("it is not the model's"))
    model = AutoModel.from_config(copy.deepcopy(ATTENTIVE["bert"]), attn_implementation="eager").train()
    with attention_with_dropout():
        model(input_ids=torch.ones(1, 5, dtype=torch.long))


def test_a_model_that_attends_to_some_tokens_alone_does_so_while_it_learns() -> None:
    torch.manual_seed(0)
    config = DeepseekV32Config(
        **SMALL | {"hidden_size": 32},
        **{"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 32, "q_lora_rank": 16, "kv_lora_rank": 16},
        **{"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 2},
        **{"index_topk": 3, "index_n_heads": 2, "index_head_dim": 16},
    )
    model = AutoModel.from_config(config, attn_implementation="sdpa").train()
    tokens = torch.randint(50, (2, 12))
    expected = model(input_ids=tokens).last_hidden_state
    with attention_with_dropout():
        found = model(input_ids=tokens).last_hidden_state
    torch.testing.assert_close(found, expected)
