"""Pointers and marks: the small JSON files of a store that change."""

import json
import uuid
from dataclasses import dataclass

from blocks.errors import StoreConfigError
from blocks.keys import check_key
from blocks.manifest import Record

POINTERS = "pointers"
RUNNING = "running"


@dataclass(frozen=True)
class Pointer:
    """What a pointer says, and which version of it that is."""

    value: Record
    version: str


@dataclass(frozen=True)
class Mark:
    """What a mark says, and its age in seconds by the store's clock."""

    content: Record
    age_s: float


def pointer_key(name: str) -> str:
    """Return the key of the pointer `name`."""
    return f"{POINTERS}/{check_key(name)}.json"


def mark_key(name: str) -> str:
    """Return the key of the mark `name`."""
    return f"{RUNNING}/{check_key(name)}.json"


def write_value(value: Record) -> bytes:
    """Return the bytes of a pointer or mark; no two writes are alike, so its writer knows its own, and no version comes back."""
    return json.dumps({"schema": 1, "value": value, "nonce": uuid.uuid4().hex}, indent=1).encode()


def read_value(text: bytes, address: str) -> Record:
    """Return the value in the bytes of a pointer or mark.

    Raises:
        StoreConfigError: they are not what `write_value` returns.
    """
    try:
        value: Record = json.loads(text)["value"]
        if isinstance(value, dict):
            return value
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise StoreConfigError(f"File {address!r} is not a pointer of this project; delete it or choose another store.")
