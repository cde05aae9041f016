"""Tests of the features of models that write: what is cut, what is learnt, and on which side they are padded."""

import copy
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from tasks.compute.models import load_tokenizer
from tasks.encoding.padding import IGNORED
from tasks.encoding.texts import encode_pairs, encode_prompts
from tasks.errors import ConfigError
from tests.tokenizers_made import make_tokenizer

TEMPLATE = "from {document} it was"
LENGTHS = {"max_length": 8, "max_target_length": 4}


@pytest.fixture(scope="module")
def bert(encoder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(encoder, remote_code=False)


@pytest.fixture(scope="module")
def gpt(decoder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(decoder, remote_code=False)


def words(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens([token for token in ids if token != IGNORED]))


def test_a_pair_is_a_text_and_its_target_with_the_tokens_around_them(bert: PreTrainedTokenizerBase) -> None:
    features, truncated = encode_pairs(bert, ["goal in match", "orbit"], ["goal", "a b orbit"], **LENGTHS)
    assert [words(bert, ids) for ids in features["input_ids"]] == ["[CLS] goal in match [SEP]", "[CLS] orbit [SEP]"]
    # Of the second target's three words two have room beside the tokens around them.
    assert [words(bert, ids) for ids in features["labels"]] == ["[CLS] goal [SEP]", "[CLS] a [UNK] [SEP]"]
    assert truncated == [False, True]


def test_without_targets_there_is_nothing_to_learn(bert: PreTrainedTokenizerBase, gpt: PreTrainedTokenizerBase) -> None:
    features, truncated = encode_pairs(bert, ["goal " * 20, "orbit"], None, **LENGTHS)
    assert set(features) == {"input_ids"}
    assert len(features["input_ids"][0]) == 8
    assert truncated == [True, False]
    assert set(encode_prompts(gpt, TEMPLATE, ["goal"], None, **LENGTHS)[0]) == {"input_ids"}


def test_a_completion_follows_its_prompt_and_alone_is_learnt(gpt: PreTrainedTokenizerBase) -> None:
    features, truncated = encode_prompts(gpt, TEMPLATE, ["goal in match"], ["goal league"], **LENGTHS)
    assert words(gpt, features["input_ids"][0]) == "from goal in match it was goal league [SEP]"
    assert words(gpt, features["labels"][0]) == "goal league [SEP]"
    assert features["labels"][0][:6] == [IGNORED] * 6
    assert truncated == [False]


@pytest.mark.parametrize("end", ["", " ", "\n"])
def test_one_space_stands_between_a_prompt_and_its_completion(end: str) -> None:
    tokenizer = make_tokenizer("gpt2")
    features, _ = encode_prompts(tokenizer, "{document}:" + end, ["the match"], ["goal"], max_length=32, max_target_length=32)
    text = tokenizer.decode(features["input_ids"][0], skip_special_tokens=True)
    assert text == f"the match:{end or ' '}goal"


def test_what_is_learnt_from_follows_the_prompt_that_is_predicted_from(gpt: PreTrainedTokenizerBase) -> None:
    texts = ["goal in match", "orbit", "bank " * 30]
    learnt, _ = encode_prompts(gpt, TEMPLATE, texts, ["a", "of", "bank"], **LENGTHS)
    predicted, _ = encode_prompts(gpt, TEMPLATE, texts, None, **LENGTHS)
    for whole, labels, prompt in zip(learnt["input_ids"], learnt["labels"], predicted["input_ids"], strict=True):
        assert whole[: len(prompt)] == prompt
        assert labels == [IGNORED] * len(prompt) + whole[len(prompt) :]


def test_of_a_long_prompt_the_texts_end_is_cut_never_the_template(gpt: PreTrainedTokenizerBase) -> None:
    features, truncated = encode_prompts(gpt, TEMPLATE, ["goal in match and league of team"], ["the new day and next"], **LENGTHS)
    assert words(gpt, features["input_ids"][0]) == "from goal in match and league it was the new day [SEP]"
    assert truncated == [True]


def test_of_a_tokenizer_that_cuts_beginnings_prompts_and_targets_lose_their_ends_too(
    gpt: PreTrainedTokenizerBase, bert: PreTrainedTokenizerBase
) -> None:
    text, target = ["goal in match and league of team"], ["the new day and next"]
    prompts, pairs = encode_prompts(gpt, TEMPLATE, text, target, **LENGTHS), encode_pairs(bert, text, target, **LENGTHS)
    cuts_beginnings = [copy.deepcopy(tokenizer) for tokenizer in (gpt, bert)]
    for tokenizer in cuts_beginnings:
        tokenizer.truncation_side = "left"
    assert encode_prompts(cuts_beginnings[0], TEMPLATE, text, target, **LENGTHS) == prompts
    features, truncated = encode_pairs(cuts_beginnings[1], text, target, **LENGTHS)
    assert (features["labels"], truncated) == (pairs[0]["labels"], pairs[1])
    # What an encoder reads is cut where its tokenizer will cut it when the model is used.
    assert words(bert, features["input_ids"][0]) == "[CLS] in match and league of team [SEP]"
    assert [tokenizer.truncation_side for tokenizer in cuts_beginnings] == ["left", "left"]


@pytest.mark.parametrize("template", ["from the new {document}", "{document}", "{document} and {document}"])
@pytest.mark.parametrize("length", range(5, 12))
def test_a_prompt_has_max_length_tokens_at_most(gpt: PreTrainedTokenizerBase, template: str, length: int) -> None:
    for count in range(15):
        features, truncated = encode_prompts(gpt, template, ["goal " * count], None, max_length=length, max_target_length=4)
        ids, whole = features["input_ids"][0], len(gpt(template.replace("{document}", "goal " * count))["input_ids"])
        assert len(ids) == whole if whole <= length else len(ids) <= length
        assert truncated == [whole > length]


def test_a_tokenizer_that_ends_every_text_does_not_end_the_prompt(bert: PreTrainedTokenizerBase) -> None:
    assert bert.eos_token == "[SEP]"
    features, _ = encode_prompts(bert, TEMPLATE, ["goal"], ["league"], **LENGTHS)
    assert words(bert, features["input_ids"][0]) == "[CLS] from goal it was league [SEP]"
    assert words(bert, features["labels"][0]) == "league [SEP]"


def test_a_template_that_leaves_no_room_for_a_text_is_refused(gpt: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ConfigError, match=r"generation\.template takes 8 tokens.* training\.max_length, 8, .* above 8\."):
        encode_prompts(gpt, "the " * 8 + "{document}", ["goal"], None, **LENGTHS)
