"""The forms of SQuAD: articles with paragraphs with questions, made flat; answers as a text and where in its context it begins.

Source: Rajpurkar et al. 2018 (arXiv 1806.03822), the files of SQuAD 1.1 and 2.0, and the columns of `squad` and `squad_v2` on the
Hugging Face Hub.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from tasks.data.files import BATCH_ROWS, Batch, Part
from tasks.errors import DataError
from tasks.text import one_line

Answer = tuple[str, int]
"""A text, and the place of its first character in the context."""

_EXPECTED = "which is not of the form {'text': ['…'], 'answer_start': [0]}"


def flattened(part: Part, names: Mapping[str, str]) -> Part:
    """Return a part of SQuAD's articles as one with a row per question; any other part as it is.

    Args:
        part: A file or split.
        names: What to call the columns `id`, `title`, `context`, `question` and `answers`.
    """
    if "paragraphs" not in part.columns or names["question"] in part.columns:
        return part

    def read(columns: list[str]) -> Iterator[Batch]:
        rows = _questions(part)
        while batch := list(islice(rows, BATCH_ROWS)):
            yield {names[name]: [row[name] for row in batch] for name in names if names[name] in columns}

    return replace(part, columns=tuple(names.values()), read=read)


def _questions(part: Part) -> Iterator[dict[str, Any]]:
    number = 0
    for batch in part.read([name for name in ("title", "paragraphs") if name in part.columns]):
        for title, paragraphs in zip(batch.get("title", [None] * len(batch["paragraphs"])), batch["paragraphs"], strict=True):
            number += 1
            for paragraph in _objects(part, number, "paragraphs", paragraphs):
                for question in _objects(part, number, "qas", paragraph.get("qas")):
                    yield {
                        "id": question.get("id"),
                        "title": title,
                        "context": paragraph.get("context"),
                        "question": question.get("question"),
                        "answers": question.get("answers"),
                    }


def _objects(part: Part, article: int, field: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise DataError(
            f"{part.where!r}, article {article}: its {field!r} is {one_line(repr(value), 80)}, not a list of objects; mend it."
        )
    return value


def parse_answers(text: str) -> list[Answer]:
    """Return the answers that a JSON text gives: an object of lists, or of one text and one number, or a list of such objects.

    None of them means that the question has no answer.

    Raises:
        ValueError: says in a clause what is wrong.
    """
    value = json.loads(text)
    if isinstance(value, str):  # a field of a CSV file
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(_EXPECTED) from None
    entries = value if isinstance(value, list) else [value]
    return [answer for entry in entries for answer in _answers(entry)]


def _answers(entry: Any) -> list[Answer]:
    if not isinstance(entry, dict) or not {"text", "answer_start"} <= set(entry):
        raise ValueError(_EXPECTED)
    texts, starts = ([value] if not isinstance(value, list) else value for value in (entry["text"], entry["answer_start"]))
    whole = all(isinstance(start, int) and not isinstance(start, bool) for start in starts)
    if not whole or not all(isinstance(text, str) for text in texts):
        raise ValueError(_EXPECTED)
    if len(texts) != len(starts):
        raise ValueError(f"which has {len(texts)} texts but {len(starts)} starts")
    return list(zip(texts, starts, strict=True))


def texts_of(answers: str) -> list[str]:
    """Return the texts of answers that `parse_answers` takes."""
    return [text for text, _ in parse_answers(answers)]


def first_answer(answers: str) -> tuple[int, int] | None:
    """Return the characters of the first answer, from the first to the one after the last, without spaces around it."""
    for text, start in parse_answers(answers):
        first = start + len(text) - len(text.lstrip())
        return first, first + len(text.strip())
    return None


def answer_fault(answer: Answer, context: str) -> str | None:
    """Say in a clause what is wrong with an answer to a context, or return None; where its text stands elsewhere, say where."""
    text, start = answer
    shown = one_line(repr(text), 60)
    if not text.strip():
        return f"where the text {shown} is empty"
    if start >= 0 and context[start : start + len(text)] == text:
        return None
    places = [place for place in range(len(context)) if context.startswith(text, place)]
    if not places:
        return f"but {shown} is not in its context"
    nearest = min(places, key=lambda place: abs(place - start))
    there = one_line(repr(context[start : start + len(text)] if start >= 0 else ""), 60)
    return f"but its context has {there} at character {start}, and {shown} at {nearest}"
