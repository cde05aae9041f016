"""Conversations as text: lists of messages, each with a role and a content, through the chat template of the model."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tasks.data.files import Batch, Part
from tasks.errors import DataError
from tasks.text import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASSISTANT = "assistant"
Message = dict[str, str]
Span = tuple[int, int]
"""Where something begins and ends in a text, in characters."""
# One line for each message, for models that have no template of their own.
_PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] | trim + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@dataclass(frozen=True)
class Rendered:
    """A conversation as text."""

    text: str
    contents: list[Span]
    """Of each message, what it says."""
    turns: list[Span]
    """Of each message of the assistant, what a model has to write: its content and how it ends."""


def parse_messages(text: str) -> list[Message]:
    """Return the messages that a JSON text holds, but for those of the system that say nothing.

    Raises:
        ValueError: says what is wrong, as a clause.
    """
    try:
        messages = json.loads(text)
    except ValueError:
        raise ValueError("which is not JSON") from None
    if not isinstance(messages, list) or not messages:
        raise ValueError("which is not a list of messages")
    said = []
    for number, message in enumerate(messages, 1):
        if _is_silent(message):
            continue
        for name in ("role", "content"):
            if not isinstance(message, dict) or not isinstance(message.get(name), str) or not message[name].strip():
                raise ValueError(f"of which message {number} has no text as its {name!r}")
        said.append({"role": message["role"], "content": message["content"]})
    if not said:
        raise ValueError("of which no message says anything")
    return said


def _is_silent(message: Any) -> bool:
    """Tell whether a message is an empty one of the system, as many datasets have where nothing is asked for."""
    if not isinstance(message, dict) or message.get("role") != "system":
        return False
    content = message.get("content")
    return content is None or (isinstance(content, str) and not content.strip())


def with_json(part: Part, column: str) -> Part:
    """Return a part in which the conversations of a column are JSON texts."""

    def read(names: list[str]) -> Iterator[Batch]:
        for batch in part.read(names):
            values = {name: [_as_json(value) for value in batch[name]] for name in batch if name == column}
            yield {**batch, **values}

    return replace(part, read=read)


def _as_json(value: Any) -> str | None:
    # Other fields may hold what JSON does not know, such as dates; they are not read.
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=lambda _: None)


def render(tokenizer: "PreTrainedTokenizerBase", messages: list[Message], row: str) -> Rendered:
    """Write a conversation with the model's chat template; without one, as lines `role: content`.

    Args:
        tokenizer: Knows the template.
        messages: The conversation.
        row: Id of its row, for messages.

    Raises:
        DataError: the template refuses the messages, or changes what they say.
    """
    text = _apply(tokenizer, messages, row)
    contents = _between(text, _surroundings(tokenizer, messages), messages) or _in_order(text, messages, row)
    turns = [
        _turn(tokenizer, messages, number, contents[number], text)
        for number, message in enumerate(messages)
        if message["role"] == ASSISTANT
    ]
    return Rendered(text, contents, turns)


def prompt(tokenizer: "PreTrainedTokenizerBase", messages: list[Message], row: str) -> str:
    """Return what a model reads before it writes the first message of the assistant, or all if there is none."""
    # An assistant that speaks first answers nothing.
    answers = (number for number, message in enumerate(messages) if message["role"] == ASSISTANT and number)
    number = next(answers, len(messages))
    return _apply(tokenizer, messages[:number], row, answer=True)


def _surroundings(tokenizer: "PreTrainedTokenizerBase", messages: list[Message]) -> list[str]:
    """Return what the template writes before, between and after the contents; nothing where it cannot be told."""
    # Words that no template holds or changes, in place of the contents: a short one may well stand in the template's own text.
    marks = [f"xqzj{number}jzqx" for number in range(len(messages))]
    try:
        rest = _apply(tokenizer, [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)], "")
    except DataError:
        return []
    pieces = []
    for mark in marks:
        piece, found, rest = rest.partition(mark)
        if not found:
            return []
        pieces.append(piece)
    return [*pieces, rest]


def _between(text: str, surroundings: list[str], messages: list[Message]) -> list[Span]:
    """Return where the contents stand between what surrounds them; nothing if the text is not made up of these."""
    spans, end = [], 0
    for message, piece in zip(messages, surroundings, strict=False):
        end += len(piece)
        content = message["content"]
        given = content if text.startswith(content, end) else content.strip()
        if not text.startswith(piece + given, end - len(piece)):
            return []
        start = end + len(given) - len(given.lstrip())
        spans.append((start, start + len(given.strip())))
        end += len(given)
    return spans if surroundings and text[end:] == surroundings[-1] else []


def _in_order(text: str, messages: list[Message], row: str) -> list[Span]:
    """Return where the contents stand, found one after the other, for a template that writes by what messages say.

    Raises:
        DataError: the template changes what they say.
    """
    contents, end = [], 0
    for message in messages:
        content = message["content"].strip()
        start = text.find(content, end)
        if start < 0:
            raise DataError(
                f"Row {row!r}: the model's chat template changes {one_line(repr(content), 80)}; choose another model."
            )
        end = start + len(content)
        contents.append((start, end))
    return contents


def _turn(tokenizer: "PreTrainedTokenizerBase", messages: list[Message], number: int, content: Span, text: str) -> Span:
    """Return a turn of the assistant, from the end of what asks for it; its content alone where a template changes the past."""
    try:
        before = _apply(tokenizer, messages[:number], "", answer=True)
        through = _apply(tokenizer, messages[: number + 1], "")
    except DataError:
        return content
    start = len(before) if text.startswith(before) and len(before) <= content[0] else content[0]
    end = len(through) if text.startswith(through) else content[1]
    return start, end


def _apply(tokenizer: "PreTrainedTokenizerBase", messages: list[Message], row: str, *, answer: bool = False) -> str:
    template: Any = tokenizer.chat_template or _PLAIN_TEMPLATE
    try:
        return str(tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=answer))
    except Exception as error:  # a template can raise whatever Jinja can
        raise DataError(f"Row {row!r}: the model's chat template refuses the messages: {one_line(error, 200)}.") from error
