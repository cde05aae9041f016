"""Documents out of plain text files."""

from pathlib import Path

import pytest

from tasks.data.files import BATCH_ROWS, Part
from tasks.encoding.documents import Separator, documents

LINES = ["", " = Title = ", " ", "first line", "  second line", "", "", "third", ""]


def part_of(lines: list[str]) -> Part:
    def read(columns: list[str]):
        for start in range(0, len(lines), BATCH_ROWS):
            yield dict.fromkeys(columns, lines[start : start + BATCH_ROWS])

    return Part("notes.txt", ("text",), read, lines=True)


def texts(part: Part) -> list[str]:
    return [text for batch in part.read(["text"]) for text in batch["text"]]


@pytest.mark.parametrize(
    ("separator", "expected"),
    [
        ("blank-lines", [" = Title = ", "first line\n  second line", "third"]),
        ("lines", LINES),
        ("file", ["\n".join(LINES)]),
    ],
)
def test_the_setting_says_what_separates_documents(separator: Separator, expected: list[str]) -> None:
    found = documents(part_of(LINES), separator)
    assert texts(found) == expected
    assert found.where == "notes.txt"


def test_a_document_may_reach_over_batches() -> None:
    lines = [f"line {number}" for number in range(BATCH_ROWS + 5)]
    assert texts(documents(part_of(lines), "blank-lines")) == ["\n".join(lines)]
    many = [line for number in range(BATCH_ROWS + 5) for line in (str(number), "")]
    batches = [batch["text"] for batch in documents(part_of(many), "blank-lines").read(["text"])]
    assert [len(batch) for batch in batches] == [BATCH_ROWS, 5]


def test_rows_of_other_files_stay_as_they_are(tmp_path: Path) -> None:
    part = Part("rows.csv", ("text",), lambda columns: iter([{"text": ["a\n\nb"]}]))
    assert documents(part, "blank-lines") is part
