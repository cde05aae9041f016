"""Conversations as text, with templates of models and without."""

import datetime as dt
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tasks.data.files import Part
from tasks.encoding.conversations import parse_messages, prompt, render, with_json
from tasks.errors import DataError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": " Hello "},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Bye"},
]


@pytest.fixture
def tokenizer(encoder: Path):
    return AutoTokenizer.from_pretrained(encoder)


def test_without_a_template_a_message_is_a_line(tokenizer) -> None:
    found = render(tokenizer, MESSAGES, "7")
    assert found.text == "system: Be kind.\nuser: Hello\nassistant: Hello\nuser: Bye\nassistant: Bye\n"
    assert [found.text[slice(*span)] for span in found.contents] == ["Be kind.", "Hello", "Hello", "Bye", "Bye"]
    assert [found.text[slice(*span)] for span in found.turns] == [" Hello\n", " Bye\n"]
    assert prompt(tokenizer, MESSAGES, "7") == "system: Be kind.\nuser: Hello\nassistant:"


def test_a_template_of_the_model_is_used(tokenizer) -> None:
    tokenizer.chat_template = CHATML
    found = render(tokenizer, MESSAGES, "7")
    assert found.text.endswith("<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nBye<|im_end|>\n")
    assert [found.text[slice(*span)] for span in found.turns] == [" Hello <|im_end|>\n", "Bye<|im_end|>\n"]
    assert [found.text[slice(*span)] for span in found.contents][2:] == ["Hello", "Bye", "Bye"]
    assert prompt(tokenizer, MESSAGES, "7").endswith("Hello<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("template", [None, CHATML])
def test_words_that_the_template_has_too_are_found_in_their_own_place(tokenizer, template: str | None) -> None:
    tokenizer.chat_template = template
    messages = [{"role": role, "content": content} for role, content in (("user", "s"), ("assistant", "a"), ("user", "is"))]
    found = render(tokenizer, messages, "7")
    assert [found.text[slice(*span)] for span in found.contents] == ["s", "a", "is"]
    before, after = (": ", "\n") if template is None else ("\n", "<|im_end|>")
    for start, end in found.contents:
        assert found.text[start - len(before) : start] == before
        assert found.text[end : end + len(after)] == after


def test_a_template_that_writes_by_what_is_said_is_read_in_order(tokenizer) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}{% if 'o' in m['content'] %} with o{% endif %}: {{ m['content'] }}\n{% endfor %}"
    )
    found = render(tokenizer, MESSAGES, "7")
    assert [found.text[slice(*span)] for span in found.contents] == ["Be kind.", "Hello", "Hello", "Bye", "Bye"]


def test_an_assistant_that_speaks_first_is_read_as_what_comes_before(tokenizer) -> None:
    messages = [{"role": "assistant", "content": "Hello"}, *MESSAGES[1:3]]
    assert prompt(tokenizer, messages, "7") == "assistant: Hello\nuser: Hello\nassistant:"
    assert prompt(tokenizer, messages[:1], "7") == "assistant: Hello\nassistant:"


def test_where_a_template_rewrites_the_past_a_turn_is_its_content(tokenizer) -> None:
    tokenizer.chat_template = "{{ messages | length }} messages{% for m in messages %} {{ m['content'] }}{% endfor %}"
    found = render(tokenizer, MESSAGES, "7")
    assert [found.text[slice(*span)] for span in found.turns] == ["Hello", "Bye"]


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{{ raise_exception('no system role') }}", "refuses the messages: no system role"),
        ("{{ messages[0]['content'] }}", "changes 'Hello'"),
    ],
)
def test_a_template_that_does_not_fit_is_a_data_error(tokenizer, template: str, fault: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(DataError, match=f"^Row '7': the model's chat template {fault}"):
        render(tokenizer, MESSAGES, "7")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Hello", "which is not JSON"),
        ("[]", "which is not a list of messages"),
        ('{"role": "user"}', "which is not a list of messages"),
        ('[{"role": "user", "content": "Hi"}, {"content": "Hi"}]', "of which message 2 has no text as its 'role'"),
        ('[{"role": "user", "content": null}]', "of which message 1 has no text as its 'content'"),
        ('[{"role": "user", "content": " "}]', "of which message 1 has no text as its 'content'"),
        ('[{"role": "user", "content": [{"type": "image"}]}]', "of which message 1 has no text as its 'content'"),
        ('["Hi"]', "of which message 1 has no text as its 'role'"),
    ],
)
def test_messages_have_a_role_and_a_content(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=f"^{fault}$"):
        parse_messages(text)


def test_a_system_that_says_nothing_is_left_out() -> None:
    for content in ('""', '" "', "null"):
        text = f'[{{"role": "system", "content": {content}}}, {{"role": "user", "content": "Hi"}}]'
        assert parse_messages(text) == [{"role": "user", "content": "Hi"}]
    with pytest.raises(ValueError, match=r"^of which no message says anything$"):
        parse_messages('[{"role": "system", "content": ""}]')


def test_fields_that_json_does_not_know_do_no_harm() -> None:
    messages = [{"role": "user", "content": "Hi", "at": dt.datetime(2024, 1, 1)}]
    part = Part("a", ("m",), lambda names: iter([{"m": [messages, None]}]))
    (batch,) = with_json(part, "m").read(["m"])
    assert batch["m"][1] is None
    assert parse_messages(batch["m"][0]) == [{"role": "user", "content": "Hi"}]


def test_other_fields_of_a_message_are_left_out() -> None:
    assert parse_messages('[{"role": "user", "content": " Hi", "id": 3}]') == [{"role": "user", "content": " Hi"}]
