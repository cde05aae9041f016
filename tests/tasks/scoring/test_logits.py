"""A language model's logits at some places: the same as at all of them, without the work for the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import transformers

from tasks.scoring.logits import logits_at, sums_by_row

SIZES: dict[str, Any] = {"vocab_size": 41, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
WIDE = {**SIZES, "intermediate_size": 32}
SMALL = {"embedding_size": 8, "true_hidden_size": 16, "intra_bottleneck_size": 16}
ENCODERS = [
    transformers.BertConfig(**WIDE),
    transformers.RobertaConfig(**WIDE),
    transformers.DistilBertConfig(vocab_size=41, dim=16, n_layers=1, n_heads=2, hidden_dim=32),
    transformers.AlbertConfig(**WIDE, embedding_size=8),
    transformers.ElectraConfig(**WIDE, embedding_size=8),
    transformers.DebertaV2Config(**WIDE),
    transformers.ModernBertConfig(**WIDE, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2),
    transformers.MobileBertConfig(**WIDE, **SMALL, num_feedforward_networks=1),
]
DECODERS = [
    transformers.GPT2Config(vocab_size=41, n_embd=16, n_layer=1, n_head=2),
    transformers.GPTNeoConfig(vocab_size=41, hidden_size=16, num_layers=1, num_heads=2, attention_types=[[["global"], 1]]),
    transformers.LlamaConfig(**WIDE, num_key_value_heads=2),
    transformers.BertConfig(**WIDE, is_decoder=True),
]
PLACES = torch.tensor([[False, True, True, False, False], [False, False, False, False, True]])


def made(config: Any) -> Any:
    torch.manual_seed(0)
    auto = transformers.AutoModelForCausalLM if config in DECODERS else transformers.AutoModelForMaskedLM
    return auto.from_config(config, attn_implementation="eager").eval()


def inputs(rows: int = 2) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 41, (rows, 5), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("config", [*ENCODERS, *DECODERS], ids=lambda config: config.model_type)
def test_they_are_those_that_the_model_computes_for_all(config: Any) -> None:
    model = made(config)
    with torch.no_grad():
        found, every = logits_at(PLACES, model, **inputs()), model(**inputs()).logits
    assert every.shape == (2, 5, 41), "the model is left as it was"
    torch.testing.assert_close(found, every[PLACES])


@pytest.mark.parametrize("config", [*ENCODERS[:-1], *DECODERS], ids=lambda config: config.model_type)
def test_no_others_are_computed(config: Any) -> None:
    model, seen = made(config), []
    model.get_output_embeddings().register_forward_hook(lambda layer, given, output: seen.append(output.shape[:-1].numel()))
    logits_at(PLACES, model, **inputs())
    assert seen == [3]


def test_a_model_whose_last_layer_is_not_known_computes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(ENCODERS[0])
    expected = logits_at(PLACES, model, **inputs())
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    torch.testing.assert_close(logits_at(PLACES, model, **inputs()), expected)


def test_a_model_that_is_wrapped_to_train_in_several_processes(tmp_path: Path) -> None:
    model = made(ENCODERS[0])
    expected = logits_at(PLACES, model, **inputs())
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        found = logits_at(PLACES, torch.nn.parallel.DistributedDataParallel(model), **inputs())
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("wanted", [True, False], ids=["all", "none"])
def test_all_places_and_none(wanted: bool) -> None:
    model, places = made(ENCODERS[0]), torch.full((1, 5), wanted)
    found = logits_at(places, model, **inputs(1))
    torch.testing.assert_close(found, model(**inputs(1)).logits[places])


def test_a_model_that_fails_is_left_as_it_was() -> None:
    model = made(ENCODERS[0])
    with pytest.raises(IndexError):
        logits_at(PLACES, model, input_ids=torch.full((2, 5), 41))
    assert model(**inputs()).logits.shape == (2, 5, 41)


def test_gradients_are_those_of_all_logits() -> None:
    model, found = made(ENCODERS[0]), []
    for take in (lambda: logits_at(PLACES, model, **inputs()), lambda: model(**inputs()).logits[PLACES]):
        model.zero_grad()
        take().square().sum().backward()
        found.append([weights.grad.clone() for weights in model.parameters() if weights.grad is not None])
    assert len(found[0]) > 10
    torch.testing.assert_close(*found)


def test_values_are_summed_for_each_row() -> None:
    found = sums_by_row(PLACES, np.array([1.5, 2.0, 4.0]), 1, np.array([True, False, True]))
    np.testing.assert_array_equal(found, [[3.5, 2, 1], [4.0, 1, 1]])
    assert sums_by_row(torch.zeros(2, 5, dtype=torch.bool), np.zeros(0), 1).tolist() == [[0, 0], [0, 0]]
