"""The quickstart dataset for summarization: documentation of AWS API operations, and a title of a few words for each.

The text is what botocore (Apache-2.0) ships for an operation; its title is the operation's name, in words: `ListTagsForResource`
gives `list tags for resource`.
"""

import re

from tasks.data.files import Part
from tasks.data.quickstart.botocore_docs import operations, part_of
from tasks.data.quickstart.families import FAMILIES
from tasks.data.rows import fold, hash64

ROWS = 3000
WORDS = range(6, 41)
"""Of a text: shorter ones say nothing that a title leaves out, longer ones take their time to read."""
_WORD = re.compile(r"[A-Z]{2,}s(?![a-z])|[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+")


def summaries_part() -> Part:
    """Return the dataset as one part: `text`, `summary` and `operation`, at most 3,000 rows, chosen by their hash."""
    rows: dict[int, dict[str, str]] = {}
    for services in FAMILIES.values():
        for operation, text in (pair for service in services.split() for pair in operations(service)):
            if len(text.split()) in WORDS:
                row = {"text": text, "summary": title(operation.partition(".")[2]), "operation": operation}
                rows.setdefault(hash64(fold(text)), row)
    return part_of([row for _, row in sorted(rows.items())[:ROWS]])


def title(name: str) -> str:
    """Return the words of a name in camel case, in lower case but for abbreviations: `DescribeDBInstances` has three."""
    return " ".join(word if word[:2].isupper() and len(word) > 1 else word.lower() for word in _WORD.findall(name))
