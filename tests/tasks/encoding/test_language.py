"""From rows to tokens with labels: what is to be predicted of texts, completions and conversations."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tasks.encoding.language import Marked, beginning, borders, marked, scored_bytes, tokenized
from tasks.encoding.padding import IGNORED
from tasks.errors import ModelError

CHAT = json.dumps(
    [
        {"role": "user", "content": "goal team"},
        {"role": "assistant", "content": " coach é "},
        {"role": "user", "content": "orbit"},
        {"role": "assistant", "content": "rocket"},
    ]
)


@pytest.fixture
def tokenizer(encoder: Path):
    return AutoTokenizer.from_pretrained(encoder)


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["the goal of the team said yes", "a goal in the orbit é ü 😀"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def wanted(tokenizer: Any, row: dict[str, str], loss_on: Any, *, train: bool) -> str:
    (document,) = tokenized(tokenizer, [marked(tokenizer, {"id": "7", **row}, loss_on, train=train)], train=train)
    assert len(document.ids) == len(document.labels)
    assert all(label in (IGNORED, token) for token, label in zip(document.ids, document.labels, strict=True))
    return str(tokenizer.decode([label for label in document.labels if label != IGNORED]))


@pytest.mark.parametrize(
    ("row", "loss_on", "learnt", "scored"),
    [
        ({"text": "the goal é"}, "completions", "the goal é<|end|>", "the goal é"),
        ({"prompt": "the goal", "completion": " yes 😀"}, "completions", " yes 😀<|end|>", " yes 😀"),
        ({"prompt": "the goal", "completion": " yes"}, "everything", "the goal yes<|end|>", "the goal yes"),
        # How a turn ends is learnt, too, but what everybody knows of a template is not scored.
        ({"messages": CHAT}, "completions", " coach é\n rocket\n<|end|>", " coach é rocket"),
        (
            {"messages": CHAT},
            "everything",
            "user: goal team\nassistant: coach é\nuser: orbit\nassistant: rocket\n<|end|>",
            " goal team coach é orbit rocket",
        ),
    ],
)
def test_what_is_learnt_and_scored(byte_level, row: dict[str, str], loss_on: str, learnt: str, scored: str) -> None:
    assert wanted(byte_level, row, loss_on, train=True) == learnt
    # A token may begin with the space before what is wanted, or not.
    assert wanted(byte_level, row, loss_on, train=False).replace(" ", "") == scored.replace(" ", "")


def test_bytes_are_those_of_utf8() -> None:
    assert scored_bytes({"text": "é😀a"}, "completions") == 7
    assert scored_bytes({"prompt": "é", "completion": "ab"}, "completions") == 2
    assert scored_bytes({"prompt": "é", "completion": "ab"}, "everything") == 4
    assert scored_bytes({"messages": CHAT}, "completions") == len("coach é".encode()) + len("rocket")
    assert scored_bytes({"messages": CHAT}, "everything") == len("goal teamcoach éorbitrocket".encode())


SAID = "user goal team{0}assistant  coach é {0}user orbit{0}assistant rocket{0}"


@pytest.mark.parametrize(
    ("begin", "turn_end", "end", "learnt"),
    [
        ("", "<|end|>\\n", "", " coach é <|end|>\nrocket<|end|>\n"),
        # It writes no token of its own at the end, by which a model could stop: that is added.
        ("<|end|>", ".", "<|end|>", " coach é .rocket.<|end|>"),
    ],
)
def test_a_conversation_is_what_the_template_writes_and_an_end(
    byte_level, monkeypatch: pytest.MonkeyPatch, begin: str, turn_end: str, end: str, learnt: str
) -> None:
    template = (
        f"{{{{ '{begin}' }}}}{{% for m in messages %}}{{{{ m['role'] + ' ' + m['content'] + '{turn_end}' }}}}{{% endfor %}}"
        "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
    )
    monkeypatch.setattr(byte_level, "chat_template", template)
    row, written = {"id": "7", "messages": CHAT}, begin + SAID.format(turn_end.replace("\\n", "\n"))
    for train in (True, False):
        (document,) = tokenized(byte_level, [marked(byte_level, row, "completions", train=train)], train=train)
        assert byte_level.decode(document.ids) == written + end * train
    assert wanted(byte_level, row, "completions", train=True) == learnt


def test_a_document_stands_between_the_tokens_that_the_model_knows(tokenizer, byte_level) -> None:
    assert borders(tokenizer) == (tokenizer.cls_token_id, tokenizer.eos_token_id)
    assert borders(byte_level) == (byte_level.eos_token_id, byte_level.eos_token_id)
    text = Marked("goal team", [(0, 9)])
    (learnt,), (scored,) = (tokenized(tokenizer, [text], train=train) for train in (True, False))
    inner = tokenizer.convert_tokens_to_ids(["goal", "team"])
    assert learnt.ids == [tokenizer.cls_token_id, *inner, tokenizer.eos_token_id]
    assert learnt.labels == [IGNORED, *inner, tokenizer.eos_token_id]
    assert (scored.ids, scored.labels) == ([tokenizer.cls_token_id, *inner], [IGNORED, *inner])


def test_a_tokenizer_that_does_not_know_places_can_learn_whole_texts_only() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match=r"^The tokenizer is Slow, .* set language\.loss_on to 'everything'"):
        tokenized(Slow(), [Marked("prompt and more", [(7, 15)])], train=True)


def test_the_beginning_of_a_row_is_its_prompt_or_some_words(tokenizer) -> None:
    assert beginning(tokenizer, {"prompt": "goal", "completion": "x"}, 3) == "goal"
    assert beginning(tokenizer, {"text": " goal team\ncoach league player"}, 3) == "goal team\ncoach"
    assert beginning(tokenizer, {"text": "goal"}, 3) == "goal"
    # No space need stand between tokens.
    assert beginning(tokenizer, {"text": "goal." * 1000}, 3) == "goal.goal"
    assert beginning(tokenizer, {"id": "7", "messages": CHAT}, 3) == "user: goal team\nassistant:"
