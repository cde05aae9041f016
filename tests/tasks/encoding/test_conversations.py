"""Conversations as text, with templates of models and without."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tasks.encoding.conversations import parse_messages, prompt, render
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


def test_other_fields_of_a_message_are_left_out() -> None:
    assert parse_messages('[{"role": "user", "content": " Hi", "id": 3}]') == [{"role": "user", "content": " Hi"}]
