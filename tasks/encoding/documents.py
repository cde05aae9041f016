"""Plain text files as documents."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import Literal

from tasks.data.files import BATCH_ROWS, Batch, Part

Separator = Literal["blank-lines", "lines", "file"]
"""What separates documents in a plain text file: blank lines, each line's end, or nothing but the file's end."""


def documents(part: Part, separator: Separator) -> Part:
    """Return a part of lines as one of documents, in which lines keep their breaks; other parts as they are."""
    if not part.lines or separator == "lines":
        return part

    def read(columns: list[str]) -> Iterator[Batch]:
        lines = chain.from_iterable(batch["text"] for batch in part.read(["text"]))
        found = paragraphs(lines) if separator == "blank-lines" else iter(["\n".join(lines)])
        while batch := list(islice(found, BATCH_ROWS)):
            yield dict.fromkeys(columns, batch)

    return replace(part, read=read, lines=False)


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Yield what stands between blank lines; lines of spaces are blank."""
    paragraph: list[str] = []
    for line in chain(lines, [""]):
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield "\n".join(paragraph)
            paragraph = []
