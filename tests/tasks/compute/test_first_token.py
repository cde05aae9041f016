"""Tests of classifiers that know a text by its first token."""

import copy
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertConfig,
    BigBirdConfig,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tasks.compute import attention
from tasks.compute.attention import attend
from tasks.compute.dropout import fast_dropout
from tasks.compute.first_token import read_first_token
from tests.architectures import DECODERS, ENCODER_DECODERS, ENCODERS, make_architecture

APPLIES = {"bert", "roberta", "deberta-v2", "electra"}
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def batch() -> dict[str, torch.Tensor]:
    tokens = torch.randint(5, 30, (3, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[1, 4:] = mask[2, 9:] = 0
    return {"input_ids": tokens, "attention_mask": mask, "labels": torch.tensor([0, 2, 1])}


@pytest.fixture(autouse=True)
def queries(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return for how many tokens each layer computes its attention, in the order of computation."""
    asked: list[int] = []
    torchs = attention.sdpa_attention_forward

    def own(module: Any, query: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        asked.append(query.shape[2])
        return torchs(module, query, *arguments, **options)

    monkeypatch.setattr(attention, "sdpa_attention_forward", own)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", attend)
    return asked


def tokens_seen(model: Any) -> list[int]:
    """Return for how many tokens each layer computes what follows its attention."""
    seen: list[int] = []
    for layer in model.base_model.encoder.layer:
        layer.intermediate.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    with torch.no_grad():
        model(**{name: values for name, values in batch().items() if name != "labels"})
    return seen


@pytest.mark.parametrize("architecture", [*ENCODERS, *DECODERS])
def test_logits_loss_and_gradients_stay_what_they_are(architecture: str, tmp_path: Path, queries: list[int]) -> None:
    folder = make_architecture(architecture, tmp_path / "model")
    torch.manual_seed(0)
    whole = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    whole.config.pad_token_id = 0
    model = copy.deepcopy(whole)
    assert read_first_token(model) == (architecture in APPLIES)
    assert not model.training
    expected, found = whole(**batch()), model(**batch())
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-6)
    expected.loss.backward()
    found.loss.backward()
    for (name, one), other in zip(model.named_parameters(), whole.parameters(), strict=True):
        if one.grad is not None or other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    if architecture in APPLIES:
        for one, last in ((model, 1), (whole, 11)):
            queries.clear()
            assert tokens_seen(one) == [11, last]
            # DeBERTa's attention is its own, which is not looked into.
            assert queries == ([] if architecture == "deberta-v2" else [11, last])


def test_an_adapter_of_the_query_learns_as_it_would(queries: list[int]) -> None:
    torch.manual_seed(0)
    whole = AutoModelForSequenceClassification.from_config(BertConfig(vocab_size=50, num_labels=3, **SIZES))
    model = copy.deepcopy(whole)
    assert read_first_token(model)
    found = []
    for one in (model, whole):
        torch.manual_seed(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of peft, about names in transformers
            learner = peft.get_peft_model(one, peft.LoraConfig(target_modules=["query", "value"], init_lora_weights=False))
        learner.eval()
        queries.clear()
        result = learner(**batch())
        assert queries == [11, 1 if one is model else 11]
        result.loss.backward()
        found.append([result.logits, *(weight.grad for weight in learner.parameters() if weight.requires_grad)])
    assert len(found[0]) > 8
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("fails", [False, True])
def test_attention_in_which_tokens_that_ask_see_each_other_is_left_alone(fails: bool, queries: list[int]) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(
        BertConfig(vocab_size=50, num_labels=3, initializer_range=1.0, **SIZES)
    )
    query = model.bert.encoder.layer[-1].attention.self.query
    project = query.forward

    def of_all(states: torch.Tensor) -> torch.Tensor:
        if fails and states.shape[1] == 1:
            raise ValueError(states.shape)
        return project(states) - project(states).mean(1, keepdim=True)

    query.forward = of_all
    expected = model.eval()(**batch()).logits
    assert read_first_token(model)
    torch.testing.assert_close(model.eval()(**batch()).logits, expected)
    queries.clear()
    assert tokens_seen(model) == [11, 1]
    assert queries == [11, 11]


@pytest.mark.parametrize("architecture", ENCODER_DECODERS)
def test_encoder_decoders_are_left_alone(architecture: str, tmp_path: Path) -> None:
    folder = make_architecture(architecture, tmp_path / "model")
    assert not read_first_token(AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3))


def test_what_it_learns_in_bf16_with_dropout_stays_what_it_is() -> None:
    # So little that nothing is dropped; attention goes step by step for it all the same.
    config = BertConfig(vocab_size=50, num_labels=3, attention_probs_dropout_prob=1e-9, hidden_dropout_prob=0.0, **SIZES)
    torch.manual_seed(0)
    whole = AutoModelForSequenceClassification.from_config(config).train()
    model = copy.deepcopy(whole)
    assert read_first_token(model)
    for one in (model, whole):
        with fast_dropout(), torch.autocast("cpu", torch.bfloat16):
            loss = one(**batch()).loss
        loss.backward()
    for (name, one), other in zip(model.named_parameters(), whole.parameters(), strict=True):
        # The key's bias moves all scores of a token alike: its gradient is nothing but rounding.
        if not name.endswith("key.bias"):
            assert (one.grad - other.grad).norm() <= 0.02 * other.grad.norm(), name


def test_it_learns_in_the_mode_that_it_was_in_and_draws_nothing() -> None:
    model = AutoModelForSequenceClassification.from_config(BertConfig(vocab_size=50, **SIZES)).train()
    state = torch.get_rng_state()
    assert read_first_token(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_models_that_need_all_tokens_keep_them() -> None:
    answering = AutoModelForQuestionAnswering.from_config(BertConfig(vocab_size=50, **SIZES))
    grouped = AutoModelForSequenceClassification.from_config(AlbertConfig(vocab_size=50, embedding_size=16, **SIZES))
    shared = AutoModelForSequenceClassification.from_config(BertConfig(vocab_size=50, **SIZES))
    shared.bert.encoder.layer[0] = shared.bert.encoder.layer[1]
    means = AutoModelForSequenceClassification.from_config(BertConfig(vocab_size=50, **SIZES))
    means.bert.pooler.forward = lambda states: states.mean(1)
    for model in (answering, grouped, shared, means):
        assert not read_first_token(model)
    assert tokens_seen(means) == [11, 11]


def test_a_head_that_tells_nothing_is_not_trusted() -> None:
    model = AutoModelForSequenceClassification.from_config(BertConfig(vocab_size=50, **SIZES))
    torch.nn.init.zeros_(model.classifier.weight)
    assert not read_first_token(model)
    assert tokens_seen(model) == [11, 11]


def test_attention_that_goes_by_the_length_of_rows_is_not_set_by_a_few_tokens() -> None:
    model = AutoModelForSequenceClassification.from_config(BigBirdConfig(vocab_size=50, **SIZES))
    assert not read_first_token(model)
    assert model.bert.attention_type == "block_sparse"


def test_what_only_has_the_names_of_bert_is_left_alone() -> None:
    model = AutoModelForSequenceClassification.from_config(BertConfig(vocab_size=50, **SIZES))
    output = model.bert.encoder.layer[-1].attention.output
    own = output.forward
    output.forward = lambda states, residual: own(states, residual * states.shape[1])
    assert not read_first_token(model)
    assert not output._forward_pre_hooks
