"""The quickstart dataset of language models: distinct documents of plain English, the same each time."""

import re

import pytest

from tasks.data.quickstart.documentation import documentation_part
from tasks.data.rows import fold


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str]]:
    return read()


def read() -> list[tuple[str, str]]:
    return [
        row
        for batch in documentation_part().read(["text", "operation"])
        for row in zip(batch["text"], batch["operation"], strict=True)
    ]


def test_documents_are_distinct_and_of_twenty_words_or_more(rows: list[tuple[str, str]]) -> None:
    assert len(rows) == 2000
    assert len({fold(text) for text, _ in rows}) == len(rows)
    assert all(len(text.split()) >= 20 for text, _ in rows)


def test_documents_are_plain_text_of_many_services(rows: list[tuple[str, str]]) -> None:
    markup = re.compile(r"</?(p|a|b|i|br|ul|ol|li|dl|dt|dd|code|note|important|fullname)\b[^>]*>|&(amp|lt|gt|quot|#\d+);")
    assert [text for text, _ in rows if markup.search(text)] == []
    assert len({operation.split(".")[0] for _, operation in rows}) > 200


def test_documents_are_the_same_each_time(rows: list[tuple[str, str]]) -> None:
    assert read() == rows
