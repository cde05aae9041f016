"""Names that become paths: keys of artifacts and names of their files, checked part by part."""

import re
import unicodedata
from collections.abc import Iterable

from blocks.errors import StoreConfigError

MANIFEST = "manifest.json"

_KEY_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=-]{0,199}")
# Control characters, invisible ones that turn or join text, halves of characters, line and paragraph separators.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# The longest name of a file on common filesystems, and the longest key of an object in S3, in bytes.
# Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
_LONGEST_PART = 255
LONGEST_KEY = 1024


def check_key(key: str) -> str:
    """Return `key` if each of its parts is a plain name; so no key leaves the store's root.

    Raises:
        StoreConfigError: a part is empty, too long, starts with a dot or holds an unusual character.
    """
    for part in key.split("/"):
        if not _KEY_PART.fullmatch(part):
            raise StoreConfigError(f"Key {key!r} has the part {part!r}; use letters, digits, '.', '_', '=' and '-'.")
    return key


def is_key(text: str) -> bool:
    """Tell whether `check_key` lets `text` pass."""
    return all(map(_KEY_PART.fullmatch, text.split("/")))


def is_file_name(name: str) -> bool:
    """Tell whether `name` is a relative path with `/` that stays in its folder and means the same file everywhere."""
    return (
        name != MANIFEST
        and "\\" not in name
        # Two spellings of one name would be two objects, but one file on some filesystems.
        and unicodedata.is_normalized("NFC", name)
        and not any(unicodedata.category(character) in _UNSEEN for character in name)
        and all(part not in ("", ".", "..") and len(part.encode()) <= _LONGEST_PART for part in name.split("/"))
        and len(name.encode()) <= LONGEST_KEY
    )


def are_file_names(names: Iterable[str]) -> bool:
    """Tell whether all are names of files, and none of them also of a folder that another one lies in."""
    known = set(names)
    return all(map(is_file_name, known)) and not any(
        "/".join(parts[:depth]) in known for parts in (name.split("/") for name in known) for depth in range(1, len(parts))
    )


def check_file_names(names: Iterable[str]) -> None:
    """Check the names of files that are to be published.

    Raises:
        StoreConfigError: a name that could leave the folder or mean another file elsewhere.
    """
    for name in names:
        if not is_file_name(name):
            raise StoreConfigError(f"File name {name!r} cannot be kept in a store; rename the file.")
