"""The manifest of an artifact: what is in it, who made it, and the digests that prove it whole."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from blocks.keys import are_file_names, check_file_names, check_key, is_key

Record = dict[str, Any]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTENT_DIGITS = 16


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and sha256, as hex, of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a published artifact says of itself."""

    record: Record
    files: Mapping[str, FileEntry]
    inputs: tuple[str, ...] = ()
    """Keys of artifacts that this one refers to."""
    made_by: str = ""
    """Id of the run that made it."""
    published: str = ""
    """When, as ISO 8601 in UTC; empty in artifacts of an earlier version."""
    folder: str = ""
    """Name of the folder, below the key, that has the files; empty where they lie plainly under the key."""

    @property
    def digest(self) -> str:
        """Return the sha256, as hex, of the names, sizes and digests of all files."""
        return content_digest(self.files)

    @property
    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(entry.size for entry in self.files.values())


def make_manifest(
    files: Mapping[str, FileEntry], record: Record, *, inputs: Sequence[str] = (), made_by: str = "", shared: bool = False
) -> Manifest:
    """Make the manifest of files that are published now; with `shared`, in a folder named by their content.

    Raises:
        StoreConfigError: a name of a file or the key of an input is not plain.
    """
    check_file_names(files)
    return Manifest(
        record=record,
        files=files,
        inputs=tuple(check_key(key) for key in inputs),
        made_by=made_by,
        published=_time(0),
        folder=content_digest(files)[:_CONTENT_DIGITS] if shared else "",
    )


def dated(manifest: Manifest, age_s: float) -> Manifest:
    """Return a manifest that says when it was published; one that does not took its place `age_s` seconds ago."""
    return manifest if manifest.published else replace(manifest, published=_time(age_s))


def write_manifest(manifest: Manifest, *, nonce: str = "") -> bytes:
    """Return the bytes of `manifest.json`; a `nonce` tells one writer's bytes from another's."""
    content: dict[str, Any] = {
        "schema": 1,
        "record": manifest.record,
        "files": {name: {"size": entry.size, "sha256": entry.sha256} for name, entry in manifest.files.items()},
        "inputs": list(manifest.inputs),
        "made_by": manifest.made_by,
        "published": manifest.published,
    }
    if manifest.folder:
        content["folder"] = manifest.folder
    if nonce:
        content["nonce"] = nonce
    return json.dumps(content, indent=1).encode()


def parse_manifest(text: bytes) -> Manifest | None:
    """Return the manifest in the bytes of a `manifest.json`, or None if they are none with plain names of files."""
    try:
        content = json.loads(text)
        files = {name: FileEntry(entry["size"], entry["sha256"]) for name, entry in content["files"].items()}
        manifest = Manifest(
            record=content["record"],
            files=files,
            inputs=tuple(content.get("inputs", ())),
            made_by=content.get("made_by", ""),
            published=content.get("published", ""),
            folder=content.get("folder", ""),
        )
        return manifest if _is_valid(manifest) else None
    # Whatever lies there may be anything, even brackets nested too deep.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _is_valid(manifest: Manifest) -> bool:
    return (
        isinstance(manifest.record, dict)
        and all(
            # A bool is an int too.
            type(entry.size) is int and entry.size >= 0 and bool(_SHA256.fullmatch(entry.sha256))
            for entry in manifest.files.values()
        )
        and are_file_names(manifest.files)
        and all(is_key(key) for key in manifest.inputs)
        and isinstance(manifest.made_by, str)
        and isinstance(manifest.published, str)
        and manifest.folder in ("", manifest.digest[:_CONTENT_DIGITS])
    )


def _time(age_s: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat(timespec="seconds")


def content_digest(files: Mapping[str, FileEntry]) -> str:
    """Return the sha256, as hex, of the sorted names, sizes and digests of files."""
    return hashlib.sha256(
        json.dumps([[name, entry.size, entry.sha256] for name, entry in sorted(files.items())]).encode()
    ).hexdigest()
