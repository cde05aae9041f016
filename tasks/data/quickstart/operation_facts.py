"""Quickstart datasets of several labels, and of a number, per row: documentation of AWS API operations and facts about them.

The texts are as in the dataset of families. The facts are out of the models that botocore (Apache-2.0) ships with them: which
sorts of error an operation can answer with, and how many members its request must have.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tasks.data.files import Part
from tasks.data.quickstart.botocore_docs import part_of, plain, service_model
from tasks.data.quickstart.families import FAMILIES, LEAST_WORDS
from tasks.data.rows import fold, hash64

ERRORS = {
    "not found": "notfound|nosuch|notexist",
    "conflict": "conflict|exists|inuse",
    "quota exceeded": "limitexceeded|quota",
    "access denied": "denied|forbidden|unauthorized|notauthorized",
    "throttled": "throttl|toomanyrequests",
    "invalid request": "invalid|validation|badrequest",
    "internal failure": "internal|servicefailure|serverexception",
}
"""Label to a pattern of the names of such errors, in small letters."""
ROWS = 3200

Model = Mapping[str, Any]


def errors_part() -> Part:
    """Return `text`, `label` (a list of sorts of error) and `operation`; of services that declare any errors."""

    def sorts(model: Model, operation: Model) -> list[str] | None:
        if not any(other.get("errors") for other in model["operations"].values()):
            return None
        names = " ".join(error["shape"].lower() for error in operation.get("errors", []))
        return [label for label, pattern in ERRORS.items() if re.search(pattern, names)]

    return part_of(_rows(sorts))


def required_part() -> Part:
    """Return `text`, `label` (the number of members that a request must have) and `operation`."""

    def required(model: Model, operation: Model) -> int:
        shape = operation.get("input", {}).get("shape")
        return len(model["shapes"][shape].get("required", [])) if shape else 0

    return part_of(_rows(required))


def _rows(fact: Callable[[Model, Model], Any]) -> list[dict[str, Any]]:
    """Return at most 3,200 rows of distinct texts with their facts, chosen by hash; None is no fact."""
    chosen: dict[int, dict[str, Any]] = {}
    for name, text, label in _facts(fact):
        if len(text.split()) >= LEAST_WORDS:
            chosen.setdefault(hash64(fold(text)), {"text": text, "label": label, "operation": name})
    return [row for _, row in sorted(chosen.items())[:ROWS]]


def _facts(fact: Callable[[Model, Model], Any]) -> Iterator[tuple[str, str, Any]]:
    for service in " ".join(FAMILIES.values()).split():
        model = service_model(service) or {"operations": {}}
        for name, operation in sorted(model["operations"].items()):
            if (label := fact(model, operation)) is not None:
                yield f"{service}.{name}", plain(operation.get("documentation", "")), label
