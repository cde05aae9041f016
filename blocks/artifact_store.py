"""The artifact store: immutable published folders under keys.

A published folder holds its files and a `manifest.json`, written last: the record of the step that made it, and name, size and
sha256 of each file. Without a complete manifest a folder does not exist.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from blocks.errors import ArtifactDamaged, StoreConfigError, StoreError, StoreUnavailable

MANIFEST = "manifest.json"
Record = dict[str, Any]

_KEY_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=-]{0,199}")
# Faults of a disk that no second attempt mends; every other OSError may pass.
_LASTING = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EDQUOT, errno.EFBIG}
# Faults that mean that a file of an artifact is not there.
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}


class ArtifactStore(Protocol):
    """What the steps need of a store; keys are relative paths with `/`, built from checked parts."""

    def publish(self, folder: Path, key: str, record: Record) -> None:
        """Publish the files of `folder` under `key`; an artifact that is there whole already is kept."""

    def find(self, key: str) -> Record | None:
        """Return the record published under `key`, or None if it is not there whole (presence and sizes)."""

    def fetch(self, key: str) -> Path:
        """Return a local folder with the artifact, every file's sha256 verified.

        Raises:
            ArtifactDamaged: the artifact is not there or differs from its manifest; it is unpublished.
        """

    def list(self, prefix: str) -> list[str]:
        """Return the keys of the whole artifacts under `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Unpublish `key`: its manifest goes first. Nothing happens if it is not there."""

    def check_writable(self) -> None:
        """Write and remove a small file.

        Raises:
            StoreConfigError: the store cannot be written.
        """

    def locate(self, key: str) -> str:
        """Return the address of `key` for a person to read."""


def open_store(address: str) -> ArtifactStore:
    """Open the store at `address`, a path.

    Raises:
        StoreConfigError: the address is of a form that is not known.
    """
    if not address.strip() or "\0" in address:
        raise StoreConfigError(f"Store {address!r} is not an address; give a folder.")
    if "://" in address or address.startswith("block:"):
        raise StoreConfigError(f"Store {address!r} is not supported; give a folder.")
    try:
        return LocalStore(Path(address).expanduser())
    except RuntimeError:
        raise StoreConfigError(f"Store {address!r} starts with '~', but there is no such user; give a folder.") from None


def check_key(key: str) -> str:
    """Return `key` if each of its parts is a plain name; so no key leaves the store's root.

    Raises:
        StoreConfigError: a part is empty, too long, starts with a dot or holds an unusual character.
    """
    for part in key.split("/"):
        if not _KEY_PART.fullmatch(part):
            raise StoreConfigError(f"Key {key!r} has the part {part!r}; use letters, digits, '.', '_', '=' and '-'.")
    return key


class LocalStore:
    """A store in a folder of this machine; `fetch` returns the published folder itself."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def __repr__(self) -> str:
        return f"LocalStore({str(self.root)!r})"

    def publish(self, folder: Path, key: str, record: Record) -> None:
        """Copy beside the target, then rename: readers see nothing or all. See `ArtifactStore`."""
        target = self._path(key)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            staging = target.parent / f".partial-{uuid.uuid4().hex}"
            try:
                files = {name: _copy(folder / name, staging / name) for name in _files(folder)}
                staging.mkdir(exist_ok=True)
                with (staging / MANIFEST).open("w", encoding="utf-8") as stream:
                    json.dump({"schema": 1, "record": record, "files": files}, stream, indent=1)
                    stream.flush()
                    os.fsync(stream.fileno())
                self._put_in_place(staging, key)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        except OSError as error:
            raise _store_error(error, f"Cannot publish {key!r} in {self.root}") from error

    def _put_in_place(self, staging: Path, key: str) -> None:
        """Rename `staging` to the place of `key`; what another run published meanwhile stays if it is whole."""
        target = self._path(key)
        for _ in range(5):
            try:
                staging.rename(target)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            if self.find(key) is not None:
                return
            self.delete(key)
        raise StoreUnavailable(f"Cannot publish {key!r} in {self.root}: other runs keep changing it; try again.")

    def find(self, key: str) -> Record | None:
        """See `ArtifactStore`."""
        manifest = self._manifest(key)
        if manifest is None:
            return None
        for name, entry in manifest["files"].items():
            try:
                status = (self._path(key) / name).stat()
            except OSError as error:
                self._check_absent(error, key)
                return None
            if not stat.S_ISREG(status.st_mode) or status.st_size != entry["size"]:
                return None
        record: Record = manifest["record"]
        return record

    def fetch(self, key: str) -> Path:
        """See `ArtifactStore`."""
        folder = self._path(key)
        manifest = self._manifest(key)
        try:
            damaged = manifest is None or any(
                _digest(folder / name) != entry["sha256"] for name, entry in manifest["files"].items()
            )
        except OSError as error:
            self._check_absent(error, key)
            damaged = True
        if damaged:
            self.delete(key)
            raise ArtifactDamaged(f"Artifact {key!r} in {self.root} is missing or damaged; run again to make it anew.")
        return folder

    def list(self, prefix: str) -> list[str]:
        """See `ArtifactStore`."""
        base = self._path(prefix)
        keys = (path.parent.relative_to(self.root).as_posix() for path in base.rglob(MANIFEST))
        return sorted(key for key in keys if all(map(_KEY_PART.fullmatch, key.split("/"))) and self.find(key) is not None)

    def delete(self, key: str) -> None:
        """See `ArtifactStore`."""
        folder = self._path(key)
        try:
            (folder / MANIFEST).unlink(missing_ok=True)
        except OSError as error:
            raise _store_error(error, f"Cannot delete {key!r} in {self.root}") from error
        shutil.rmtree(folder, ignore_errors=True)

    def check_writable(self) -> None:
        """Try it for real and leave no trace: permissions say little (root, read-only mounts). See `ArtifactStore`."""
        missing: list[Path] = []
        try:
            missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".probe-", buffering=0) as stream:
                # A full disk may still take the name of a file.
                stream.write(b"probe")
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreConfigError(
                f"Store {str(self.root)!r} cannot be written ({reason}); set store to a folder that can."
            ) from error
        finally:
            for path in missing:
                with suppress(OSError):
                    path.rmdir()

    def locate(self, key: str) -> str:
        """See `ArtifactStore`."""
        return str(self._path(key))

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _manifest(self, key: str) -> dict[str, Any] | None:
        """Return the manifest of `key`, or None if it is absent or not a manifest with plain file names."""
        try:
            manifest = json.loads((self._path(key) / MANIFEST).read_text(encoding="utf-8"))
            files: dict[str, Any] = manifest["files"]
            plain = all(_is_inside(name) and {"size", "sha256"} <= entry.keys() for name, entry in files.items())
            return manifest if plain and isinstance(manifest["record"], dict) else None
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        except OSError as error:
            self._check_absent(error, key)
            return None

    def _check_absent(self, error: OSError, key: str) -> None:
        """Raise unless `error` means that a file is not there: a disk that does not answer now says nothing of an artifact."""
        if error.errno not in _ABSENT:
            raise _store_error(error, f"Cannot read {key!r} in {self.root}") from error


def _is_inside(name: str) -> bool:
    """Tell whether a file name of a manifest stays in the artifact's folder."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts and "\0" not in name


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / MANIFEST:
            yield path.relative_to(folder).as_posix()


def _copy(source: Path, target: Path) -> dict[str, Any]:
    """Copy a file in one pass and return its entry in the manifest."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(1 << 20):
            digest.update(block)
            writer.write(block)
            size += len(block)
    return {"size": size, "sha256": digest.hexdigest()}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _store_error(error: OSError, what: str) -> StoreError:
    kind = StoreConfigError if error.errno in _LASTING else StoreUnavailable
    remedy = "free some space or choose another store" if error.errno == errno.ENOSPC else "check the store"
    return kind(f"{what}: {error.strerror or error}; {remedy}.")
