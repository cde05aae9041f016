"""Reading the documentation of AWS APIs that botocore ships: a few words to a few paragraphs of technical English each."""

import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tasks.data.files import BATCH_ROWS, Batch, Part


def service_model(service: str) -> dict[str, Any] | None:
    """Return the newest API version's model of a service, as botocore keeps it; None if this botocore lacks it."""
    import botocore

    root = Path(botocore.__file__).parent / "data" / service
    versions = sorted(path for path in root.glob("*") if (path / "service-2.json.gz").is_file())
    if not versions:
        return None
    model: dict[str, Any] = json.loads(gzip.decompress((versions[-1] / "service-2.json.gz").read_bytes()))
    return model


def operations(service: str) -> Iterator[tuple[str, str]]:
    """Yield (operation, text) of a service's newest API version."""
    if model := service_model(service):
        for name, operation in sorted(model["operations"].items()):
            yield f"{service}.{name}", plain(operation.get("documentation", ""))


def part_of(rows: Sequence[Mapping[str, Any]]) -> Part:
    """Return rows that are in memory, all with the same columns, as the part `quickstart`."""

    def read(columns: list[str]) -> Iterator[Batch]:
        for start in range(0, len(rows), BATCH_ROWS):
            yield {name: [row[name] for row in rows[start : start + BATCH_ROWS]] for name in columns}

    return Part("quickstart", tuple(rows[0]), read)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("p", "li", "br", "ul", "dd", "dt"):
            self.pieces.append(" ")


def plain(html: str) -> str:
    """Return the text of an HTML fragment in one line."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return re.sub(r"\s+", " ", "".join(parser.pieces)).strip()
