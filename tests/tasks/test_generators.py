"""Tests of models that write: which way each is loaded, and the encoder-decoder that is made out of an encoder."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
    ResNetConfig,
    ResNetModel,
    T5Config,
    T5ForConditionalGeneration,
)

from tasks.errors import ModelError
from tasks.generators import GenerationSettings, configure_generation, load_generator

LOADING = {"kind": "summarization", "trained": False, "allow_pickle": False, "remote_code": False}


def save_with_tokenizer(model: PreTrainedModel, encoder: Path, folder: Path) -> Path:
    model.save_pretrained(folder)
    for path in encoder.glob("*token*"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def t5(encoder: Path, tmp_path: Path) -> Path:
    config = T5Config(vocab_size=70, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    return save_with_tokenizer(T5ForConditionalGeneration(config), encoder, tmp_path / "t5")


def test_an_encoder_decoder_is_loaded_as_it_is(t5: Path) -> None:
    model, head = load_generator(t5, prompted=False, **LOADING)
    assert (type(model), head) == (T5ForConditionalGeneration, "pretrained")
    assert load_generator(t5, prompted=False, **LOADING | {"trained": True})[1] == "trained"


def test_a_decoder_is_loaded_where_there_is_a_prompt(decoder: Path) -> None:
    model, _ = load_generator(decoder, prompted=True, **LOADING)
    assert type(model).__name__ == "GPTNeoForCausalLM"
    with pytest.raises(ModelError, match=r"gpt_neo\) is a decoder alone, .* set generation\.template, e\.g\."):
        load_generator(decoder, prompted=False, **LOADING)


@pytest.mark.parametrize("name", ["encoder", "t5"])
def test_a_model_with_an_encoder_takes_no_prompt(name: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(ModelError, match=r"has an encoder.*leave generation\.template empty"):
        load_generator(request.getfixturevalue(name), prompted=True, **LOADING)


def test_an_encoder_that_cannot_be_a_decoder_is_refused(encoder: Path, tmp_path: Path) -> None:
    small = DistilBertModel(DistilBertConfig(vocab_size=70, dim=16, n_layers=1, n_heads=2, hidden_dim=32))
    folder = save_with_tokenizer(small, encoder, tmp_path / "distilbert")
    with pytest.raises(ModelError, match=r"distilbert\) is an encoder that transformers cannot make a decoder of; choose"):
        load_generator(folder, prompted=False, **LOADING)


def test_a_model_that_is_not_of_text_is_refused(tmp_path: Path) -> None:
    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="of type 'resnet', which cannot write text"):
        load_generator(tmp_path, prompted=False, **LOADING)


def test_a_decoder_that_does_not_know_its_first_token_is_refused(encoder: Path, tmp_path: Path) -> None:
    size = {f"{side}_{what}": 1 for side in ("encoder", "decoder") for what in ("layers", "attention_heads", "ffn_dim")}
    bart = BartForConditionalGeneration(BartConfig(vocab_size=70, d_model=8, max_position_embeddings=32, **size))
    bart.config.decoder_start_token_id = bart.generation_config.decoder_start_token_id = None
    folder = save_with_tokenizer(bart, encoder, tmp_path / "bart")
    with pytest.raises(ModelError, match=r"set decoder_start_token_id in its config\.json"):
        load_generator(folder, prompted=False, **LOADING)


def test_an_encoder_becomes_both_parts_and_lacks_only_what_joins_them(encoder: Path) -> None:
    model, head = load_generator(encoder, prompted=False, **LOADING)
    assert head == "warm-started"
    body = AutoModel.from_pretrained(encoder).state_dict()
    decoder = model.decoder.bert.state_dict()
    assert all(torch.equal(weight, body[name]) for name, weight in model.encoder.state_dict().items())
    assert {name for name in decoder if not name.startswith("encoder.layer.") or name in body} <= set(body)
    assert all(torch.equal(weight, body[name]) for name, weight in decoder.items() if name in body)
    assert all("crossattention" in name for name in set(decoder) - set(body))
    assert model.dtype == torch.float32


def test_the_seed_decides_what_an_encoder_lacks(encoder: Path) -> None:
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model, _ = load_generator(encoder, prompted=False, **LOADING)
        made.append(model.decoder.bert.encoder.layer[0].crossattention.self.query.weight)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_what_was_made_of_an_encoder_is_saved_as_an_encoder_decoder(encoder: Path, tmp_path: Path) -> None:
    model, _ = load_generator(encoder, prompted=False, **LOADING)
    configure_generation(model, GenerationSettings(max_new_tokens=5))
    folder = save_with_tokenizer(model, encoder, tmp_path / "made")
    plain = AutoModelForSeq2SeqLM.from_pretrained(folder)
    again, head = load_generator(folder, prompted=False, **LOADING | {"trained": True})
    assert head == "trained"
    ids = torch.tensor([[2, 10, 11, 3]])
    expected = model.eval().generate(input_ids=ids)
    # It ends by itself, or after five tokens; the first, which the tokenizer puts before each text, comes after the start.
    assert expected[0, :2].tolist() == [3, 2]
    assert expected.shape[1] <= 6
    for other in (plain, again):
        assert torch.equal(other.eval().generate(input_ids=ids), expected)


def test_a_model_keeps_its_tokens_and_nothing_else_of_how_it_wrote(t5: Path) -> None:
    model, _ = load_generator(t5, prompted=False, **LOADING)
    model.generation_config.update(num_beams=7, forced_eos_token_id=1, max_length=999, temperature=0.3)
    configure_generation(model, GenerationSettings(max_new_tokens=5))
    found = model.generation_config
    assert (found.decoder_start_token_id, found.forced_eos_token_id, found.eos_token_id) == (0, 1, 1)
    assert (found.num_beams, found.max_length, found.temperature, found.max_new_tokens) == (1, None, None, 5)
