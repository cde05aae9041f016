"""The artifact store: immutable published folders under keys, pointers that runs swap, and marks of runs that are alive.

A published folder holds its files and a `manifest.json`, written last: the record of the step that made it, and name, size and
sha256 of each file. Without a complete manifest a folder does not exist.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from blocks.errors import StoreConfigError
from blocks.keys import MANIFEST, check_key
from blocks.local_store import LocalStore
from blocks.manifest import FileEntry, Manifest, Record
from blocks.pointers import Mark, Pointer

__all__ = [
    "MANIFEST",
    "ArtifactStore",
    "FileEntry",
    "LocalStore",
    "Manifest",
    "Mark",
    "Pointer",
    "Record",
    "check_key",
    "open_store",
]

_FORMS = "give a folder, s3://bucket/prefix or block:TYPE/NAME"


@runtime_checkable
class ArtifactStore(Protocol):
    """What the steps need of a store; keys are relative paths with `/`, built from checked parts.

    Every method raises `StoreUnavailable` where the store does not answer now, and `StoreConfigError` where it never will.
    """

    def publish(
        self, folder: Path, key: str, record: Record, *, inputs: Sequence[str] = (), made_by: str = "", own: bool = False
    ) -> None:
        """Publish the files of `folder` under `key`; an artifact that is there whole already is kept.

        The caller gives `folder` away: the store may keep its files themselves, so they must not be changed afterwards.

        Args:
            folder: The files.
            key: The artifact's key.
            record: What `find` returns.
            inputs: Keys of the artifacts that this one refers to.
            made_by: Id of the run that made it.
            own: The key belongs to this writer alone: files lie plainly under it and replace what an earlier attempt left.
        """

    def inspect(self, key: str) -> Manifest | None:
        """Return the manifest of `key`, or None if the artifact is not there whole (presence and sizes)."""

    def find(self, key: str) -> Record | None:
        """Return the record published under `key`, or None if it is not there whole (presence and sizes)."""

    def fetch(self, key: str) -> Path:
        """Return a local folder with the artifact, every file's sha256 verified.

        Raises:
            ArtifactDamaged: the artifact is not there or differs from its manifest; it is unpublished.
        """

    def delete(self, key: str) -> None:
        """Unpublish `key`: its manifest goes first. Nothing happens if it is not there."""

    def check_writable(self) -> None:
        """Write and remove a small file.

        Raises:
            StoreConfigError: the store cannot be written.
        """

    def manifests(self, prefix: str) -> dict[str, Manifest]:
        """Return the manifests of the whole artifacts under `prefix` by key, in one pass.

        Those of an earlier version, which do not say when they were published, get the time when their files were written.
        """

    def locate(self, key: str) -> str:
        """Return the address of the folder with the files of `key`, for a person to read."""

    def read_pointer(self, name: str) -> Pointer | None:
        """Return what the pointer `name` says, or None if there is none."""

    def swap_pointer(self, name: str, value: Record, expected: str | None) -> None:
        """Let the pointer `name` say `value` if its version is the `expected` one; None: if it does not exist.

        Raises:
            PointerChanged: it is at another version.
        """

    def list_pointers(self) -> "list[str]":
        """Return the names of the pointers, sorted."""

    def mark(self, name: str, content: Record) -> None:
        """Say that the run `name` is alive; a mark may be written again and again."""

    def unmark(self, name: str) -> None:
        """Take the mark `name` away. Nothing happens if it is not there."""

    def marks(self) -> dict[str, Mark]:
        """Return the marks of all runs, with their ages by the store's own clock."""

    def sweep(self, min_age_s: float, *, delete: bool) -> "list[str]":
        """Return the addresses of what interrupted publishes left, `min_age_s` seconds old or older; with `delete`, remove it."""

    # Last, for in the rest of the class the word `list` would mean this method.
    def list(self, prefix: str) -> "list[str]":
        """Return the keys of the whole artifacts under `prefix`, sorted."""


def open_store(address: str) -> ArtifactStore:
    """Open the store at `address`: a path, `s3://bucket/prefix`, or `block:TYPE/NAME` for a block that Prefect keeps.

    Raises:
        StoreConfigError: the address is malformed, holds credentials, or names no block that is a store.
        StoreUnavailable: Prefect's API, which keeps the blocks, does not answer.
    """
    if not address.strip() or "\0" in address:
        raise StoreConfigError(f"Store {address!r} is not an address; {_FORMS}.")
    if "://" in address:
        return _open_url(address)
    if address.startswith("block:"):
        from blocks.saved_block import load_store

        return load_store(address)
    try:
        return LocalStore(Path(address).expanduser())
    except RuntimeError:
        raise StoreConfigError(f"Store {address!r} starts with '~', but there is no such user; {_FORMS}.") from None


def _open_url(address: str) -> ArtifactStore:
    scheme, _, rest = address.partition("://")
    # What may be a secret is not repeated.
    if {"@", ":"} & set(rest.partition("/")[0]):
        raise StoreConfigError(
            "Store address seems to hold credentials; leave them out: the environment, a profile, a role or a block has them."
        )
    if scheme != "s3":
        raise StoreConfigError(f"Store {address!r} is of an unknown kind; {_FORMS}.")
    from blocks.s3_store import S3Store

    bucket, _, prefix = rest.removesuffix("/").partition("/")
    return S3Store(bucket=bucket, prefix=prefix)
