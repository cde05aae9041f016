"""Decoders as they are, and out of encoders: which models make one, and that it reads from left to right."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tasks.decoders import keeps_apart, load_decoder
from tasks.errors import ModelError
from tasks.generators import load_generator

LOADING = {"kind": "causal-lm", "allow_pickle": False, "remote_code": False}
SMALL = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "bert-generation"])
def test_an_encoder_becomes_a_decoder_that_loads_as_it_is_saved(tmp_path: Path, model_type: str) -> None:
    config = transformers.AutoConfig.for_model(model_type, **SMALL, max_position_embeddings=40)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
    model, head = load_decoder(tmp_path / "encoder", trained=False, **LOADING)
    assert head == "warm-started"
    model.eval().save_pretrained(tmp_path / "decoder")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "decoder").eval()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with torch.inference_mode():
        logits, other = model(input_ids=ids).logits, model(input_ids=torch.tensor([[5, 6, 7, 8, 9, 11]])).logits
        torch.testing.assert_close(logits[:, :5], other[:, :5])
        assert not torch.allclose(logits[:, 5], other[:, 5])
        assert torch.equal(again(input_ids=ids).logits, logits)
    assert load_decoder(tmp_path / "decoder", trained=True, **LOADING)[1] == "trained"
    assert load_decoder(tmp_path / "decoder", trained=False, **LOADING)[1] == "pretrained"


def test_a_masked_language_models_head_is_kept(tmp_path: Path) -> None:
    transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)).save_pretrained(tmp_path)
    stored = transformers.BertForMaskedLM.from_pretrained(tmp_path).cls.predictions.transform.dense.weight
    model, head = load_decoder(tmp_path, trained=False, **LOADING)
    assert head == "warm-started"
    assert torch.equal(model.cls.predictions.transform.dense.weight, stored)


def test_a_decoder_without_a_head_of_its_own_gets_one(tmp_path: Path, decoder: Path) -> None:
    assert load_decoder(decoder, trained=False, **LOADING)[1] == "pretrained", "its embeddings are its head"
    transformers.LlamaModel(transformers.LlamaConfig(**SMALL)).save_pretrained(tmp_path)
    assert load_decoder(tmp_path, trained=False, **LOADING)[1] == "fresh"
    with pytest.raises(ModelError, match="lacks trained weights"):
        load_decoder(tmp_path, trained=True, **LOADING)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (transformers.T5Config(vocab_size=30, d_model=8), "type 't5', an encoder-decoder"),
        (transformers.DistilBertConfig(vocab_size=30, dim=8), "type 'distilbert', of which transformers makes no decoder"),
        (transformers.DebertaV2Config(vocab_size=30, hidden_size=8), "type 'deberta-v2', of which transformers makes no decoder"),
        # It would read in both directions, and so see what it is to predict.
        (transformers.XLMConfig(vocab_size=30, emb_dim=8), "type 'xlm', of which transformers makes no decoder"),
    ],
)
def test_what_makes_no_decoder_is_refused_in_one_line(tmp_path: Path, config: Any, fault: str) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"^Model .* is of {fault}.*; choose a decoder such as 'gpt2'.*$"):
        load_decoder(tmp_path, trained=False, **LOADING)


@pytest.mark.parametrize("load", [load_decoder, load_generator])
def test_a_model_that_sees_what_it_is_to_predict_is_refused(tmp_path: Path, load: Any) -> None:
    config = transformers.XLNetConfig(vocab_size=40, d_model=16, n_layer=1, n_head=2, d_inner=16)
    transformers.XLNetLMHeadModel(config).save_pretrained(tmp_path)
    prompted = {"prompted": True} if load is load_generator else {}
    with pytest.raises(ModelError, match=r"\(xlnet\) sees the tokens after the one that it predicts; choose a model .*'gpt2'\.$"):
        load(tmp_path, trained=False, **LOADING, **prompted)


def test_architectures_that_were_not_tried_are_not_packed_and_the_log_says_so(
    encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    assert keeps_apart(tokenizer, 16)
    assert not caplog.records
    transformers.RobertaConfig(**SMALL).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for _ in range(2):  # once for each batch of rows
        assert not keeps_apart(transformers.AutoTokenizer.from_pretrained(tmp_path), 16)
    assert [record.getMessage() for record in caplog.records] == [
        "Documents are not packed: models of type 'roberta' do not keep them apart within a block."
    ]
