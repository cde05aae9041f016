"""The quickstart dataset of language models: what the documentation of AWS APIs says of their operations, as plain text."""

from pathlib import Path

from tasks.data.files import Part
from tasks.data.quickstart.botocore_docs import operations, part_of
from tasks.data.rows import fold, hash64

DOCUMENTS = 2_000
LEAST_WORDS = 20


def documentation_part() -> Part:
    """Return the dataset as one part: `text` and `operation`, at most 2,000 distinct documents, chosen by their hash."""
    return part_of(_rows())


def _rows() -> list[dict[str, str]]:
    found: dict[int, dict[str, str]] = {}
    for service in _services():
        for operation, text in operations(service):
            # Some documentation shows the markup of its own source.
            if len(text.split()) >= LEAST_WORDS and "<" not in text:
                found.setdefault(hash64(fold(text)), {"text": text, "operation": operation})
    return [row for _, row in sorted(found.items())[:DOCUMENTS]]


def _services() -> list[str]:
    import botocore

    return sorted(path.name for path in (Path(botocore.__file__).parent / "data").iterdir() if path.is_dir())
