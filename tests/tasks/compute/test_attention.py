"""Tests of attention under torch's name."""

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModel, BertConfig, DeepseekV32Config, GPT2Config, LlamaConfig, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tasks.compute import attention
from tasks.compute.attention import attend, for_first_token, use_attention
from tasks.compute.dropout import fast_dropout


@pytest.fixture(autouse=True)
def torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with transformers' own function, and end with what was there."""
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", sdpa_attention_forward)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where torch's own attention is used."""
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *_, **__: pytest.fail("torch's attention was used"))


def attended(config: PreTrainedConfig, *, packed: bool, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradient of the embeddings, with torch's own attention and with the other, both with the same dropout of 0.2."""
    torch.manual_seed(0)
    model = AutoModel.from_config(config, attn_implementation="sdpa").double().train()
    tokens, mask = torch.randint(50, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[1, 9 - padding :] = 0
    found, seen = [], mask.bool()
    if packed:
        mask = torch.zeros(2, 1, 9, 9).masked_fill(torch.ones(9, 9, dtype=torch.bool).triu(4), torch.finfo(torch.float32).min)
    for change in (lambda: None, use_attention):
        change()
        torch.manual_seed(1)
        model.zero_grad()
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


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("name", ATTENTIVE)
@pytest.mark.parametrize(("packed", "padding"), [(False, 0), (False, 3), (True, 0)], ids=["whole", "padded", "packed"])
def test_attention_step_by_step_is_that_of_torch(name: str, packed: bool, padding: int) -> None:
    with fast_dropout():
        fused, plain = attended(copy.deepcopy(ATTENTIVE[name]), packed=packed, padding=padding)
    torch.testing.assert_close(plain, fused, atol=1e-10, rtol=1e-8)


def test_without_dropout_and_in_fp32_torchs_attention_is_used() -> None:
    torch.manual_seed(0)
    model = AutoModel.from_config(copy.deepcopy(ATTENTIVE["bert"])).eval()
    tokens = torch.randint(50, (2, 9))
    with torch.no_grad():
        expected = model(input_ids=tokens).last_hidden_state
        use_attention()
        assert torch.equal(model(input_ids=tokens).last_hidden_state, expected)


def drawn(tokens: int, heads: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    return [torch.randn(3, heads, tokens, 16, generator=generator).bfloat16() for _ in range(3)]


def module(**attributes: Any) -> torch.nn.Module:
    made = torch.nn.Module()
    for name, value in {"is_causal": False, **attributes}.items():
        setattr(made, name, value)
    return made


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("tokens", [1, 7, 32, 56, 64, 100])
@pytest.mark.parametrize("masked", [None, "bool", "number"])
def test_scoring_in_bf16_by_steps_is_attention_but_for_rounding(
    tokens: int, masked: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_has_amx", lambda: False)
    query, key, value = drawn(tokens)
    mask = None if masked is None else torch.ones(3, 1, tokens, tokens, dtype=torch.bool)
    if mask is not None:
        mask[1, ..., tokens // 2 + 1 :] = False
    exact = torch.nn.functional.scaled_dot_product_attention(query.double(), key.double(), value.double(), attn_mask=mask)
    if masked == "number":
        mask = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    with torch.no_grad():
        found, _ = attend(module(), query, key, value, mask)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.transpose(1, 2).double(), exact, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    "case", ["bf16", "with gradients", "causal", "shared keys", "fp32", "fp64", "AMX", "too many scores", "a position's bias"]
)
def test_what_torchs_attention_is_better_at_is_left_to_it(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def own(*arguments: Any, **options: Any) -> tuple[torch.Tensor, None]:
        asked.append(case)
        return sdpa_attention_forward(*arguments, **options)

    monkeypatch.setattr(attention, "sdpa_attention_forward", own)
    monkeypatch.setattr(attention, "_has_amx", lambda: case == "AMX")
    monkeypatch.setattr(attention, "_MOST_SCORES", 3 * 2 * 9 * 9 - (case == "too many scores"))
    query, key, value = (one.to({"fp32": torch.float32, "fp64": torch.float64}.get(case)) for one in drawn(9))
    about = module(is_causal=case == "causal", num_key_value_groups=1 + (case == "shared keys"))
    if case == "shared keys":
        key, value = key[:, :1], value[:, :1]
    others = {"position_bias": torch.ones(1, 2, 9, 9, dtype=query.dtype).triu()} if case == "a position's bias" else {}
    with torch.set_grad_enabled(case == "with gradients"):
        found, _ = attend(about, query, key, value, None, **others)
    assert bool(asked) == (case != "bf16")
    expected, _ = sdpa_attention_forward(about, query, key, value, None, **others)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_another_device_than_a_cpu_has_torchs_attention(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_has_amx", lambda: False)
    monkeypatch.setattr(attention, "_by_steps", lambda *_: pytest.fail("it went by steps"))
    query, key, value = (one.to("meta") for one in drawn(9))
    with torch.no_grad():
        found, _ = attend(module(), query, key, value, None, dropout)
    assert found.shape == (3, 9, 2, 16)


@pytest.mark.parametrize("tokens", [7, 32, 40])
def test_the_gradient_of_attention_in_bf16_is_torchs(tokens: int) -> None:
    gradients = []
    for dtype in (torch.float64, torch.bfloat16):
        query, key, value = (one.to(dtype).requires_grad_() for one in drawn(tokens))
        torch.manual_seed(0)
        with fast_dropout():
            found, _ = attend(module(), query, key, value, None, dropout=1e-4)
        (found * torch.arange(16)).sum().backward()
        gradients.append([one.grad.double() for one in (query, key, value)])
    for exact, rounded in zip(*gradients, strict=True):
        assert (rounded - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 1e-9])
def test_where_the_first_token_alone_asks_all_get_what_it_gets(
    dtype: torch.dtype, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_has_amx", lambda: False)
    query, key, value = (one.to(dtype) for one in drawn(11))
    mask = torch.ones(3, 1, 11, 11, dtype=torch.bool)
    mask[1, ..., 4:] = False
    about = module()
    for wanted in (None, mask):
        with torch.no_grad():
            every, _ = attend(about, query, key, value, wanted, dropout)
            for_first_token(about, True)
            first, _ = attend(about, query, key, value, wanted, dropout)
            for_first_token(about, False)
            again, _ = attend(about, query, key, value, wanted, dropout)
        torch.testing.assert_close(first, every[:, :1].expand_as(every))
        assert torch.equal(again, every)


def test_a_row_of_nothing_but_padding_stays_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_has_amx", lambda: False)
    use_attention()
    for dropped in (True, False):
        model = AutoModel.from_config(copy.deepcopy(ATTENTIVE["bert"])).train(dropped)
        with torch.set_grad_enabled(dropped), torch.autocast("cpu", torch.bfloat16):
            mask = torch.zeros(1, 1, 5, 5).fill_(torch.finfo(torch.float32).min)
            assert model(input_ids=torch.ones(1, 5, dtype=torch.long), attention_mask=mask).last_hidden_state.isfinite().all()


def test_a_model_with_another_attention_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "attend", lambda *_, **__: pytest.fail("it is not the model's"))
    use_attention()
    model = AutoModel.from_config(copy.deepcopy(ATTENTIVE["bert"]), attn_implementation="eager").train()
    model(input_ids=torch.ones(1, 5, dtype=torch.long))
    with pytest.raises(pytest.fail.Exception):
        AutoModel.from_config(copy.deepcopy(ATTENTIVE["bert"])).train()(input_ids=torch.ones(1, 5, dtype=torch.long))


def test_a_model_that_attends_to_some_tokens_alone_does_so_while_it_learns() -> None:
    torch.manual_seed(0)
    config = DeepseekV32Config(
        **SMALL | {"hidden_size": 32},
        **{"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 32, "q_lora_rank": 16, "kv_lora_rank": 16},
        **{"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 2},
        **{"index_topk": 3, "index_n_heads": 2, "index_head_dim": 16, "attention_dropout": 0.2},
    )
    model = AutoModel.from_config(config, attn_implementation="sdpa").train()
    tokens = torch.randint(50, (2, 12))
    found = []
    for change in (lambda: None, use_attention):
        change()
        torch.manual_seed(1)
        with fast_dropout():
            found.append(model(input_ids=tokens).last_hidden_state)
    torch.testing.assert_close(found[1], found[0])
