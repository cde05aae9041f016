"""Quickstart datasets of several labels, and of a number, per row: documentation of AWS API operations and facts about them.

The texts are as in the dataset of families. The facts are out of the models that botocore (Apache-2.0) ships with them: what an
operation does, by its name's verb and its request's members, and how many members its request must have.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tasks.data.files import Part
from tasks.data.quickstart.botocore_docs import part_of, plain, service_model
from tasks.data.quickstart.families import FAMILIES, LEAST_WORDS
from tasks.data.rows import fold, hash64

VERBS = {
    "reads": "Get|List|Describe|Search|BatchGet|BatchDescribe",
    "creates": "Create|Register|Add|Import|Start|Run|Copy|BatchCreate",
    "changes": "Update|Modify|Put|Set|Edit|BatchUpdate|BatchPut",
    "removes": "Delete|Remove|Deregister|Disassociate|Terminate|Cancel|Untag|BatchDelete",
}
"""Label to a pattern of the beginnings of such operations' names."""
MEMBERS = {
    "in pages": "nextToken|nextPageToken|pageToken|marker|maxResults|maxRecords|maxItems|limit",
    "with tags": "tags|tagList|tagSpecifications?",
}
"""Label to a pattern of the names of such requests' members."""
ROWS = 3200

Shape = Mapping[str, Any]


def actions_part() -> Part:
    """Return `text`, `label` (a list of what the operation does) and `operation`."""
    return part_of(_rows(_actions))


def required_part() -> Part:
    """Return `text`, `label` (the number of members that a request must have) and `operation`."""
    return part_of(_rows(lambda name, request: len(request.get("required", []))))


def _actions(name: str, request: Shape) -> list[str]:
    verbs = [label for label, pattern in VERBS.items() if re.match(f"({pattern})(?![a-z])", name)]
    members = [
        label
        for label, pattern in MEMBERS.items()
        if any(re.fullmatch(pattern, member, re.IGNORECASE) for member in request.get("members", {}))
    ]
    return verbs + members


def _rows(fact: Callable[[str, Shape], Any]) -> list[dict[str, Any]]:
    """Return at most 3,200 rows of distinct texts with facts of an operation's name and its request's shape, chosen by hash."""
    chosen: dict[int, dict[str, Any]] = {}
    for operation, text, request in _operations():
        if len(text.split()) >= LEAST_WORDS:
            row = {"text": text, "label": fact(operation.partition(".")[2], request), "operation": operation}
            chosen.setdefault(hash64(fold(text)), row)
    return [row for _, row in sorted(chosen.items())[:ROWS]]


def _operations() -> Iterator[tuple[str, str, Shape]]:
    """Yield (service and operation, text, the request's shape)."""
    for service in " ".join(FAMILIES.values()).split():
        model = service_model(service) or {"operations": {}}
        for name, operation in sorted(model["operations"].items()):
            shape = operation.get("input", {}).get("shape")
            yield f"{service}.{name}", plain(operation.get("documentation", "")), model["shapes"][shape] if shape else {}
