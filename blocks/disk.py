"""Files of this machine: copied, hashed, written whole, and what their faults mean."""

import errno
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from blocks.errors import StoreConfigError, StoreError, StoreUnavailable
from blocks.keys import MANIFEST
from blocks.manifest import FileEntry

# Faults of a disk that no second attempt mends; every other OSError may pass.
LASTING = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EDQUOT, errno.EFBIG}
# Faults that mean that a file of an artifact is not there.
ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
PARTIAL = ".partial-"
"""How the name of what is not finished yet begins."""

# Hashing leaves the interpreter's lock; more threads than this only make a disk seek.
_HASHERS = 4


def store_error(error: OSError, what: str) -> StoreError:
    """Return the error of a store that a fault of the disk means."""
    kind = StoreConfigError if error.errno in LASTING else StoreUnavailable
    remedy = "free some space or choose another store" if error.errno == errno.ENOSPC else "check the store"
    return kind(f"{what}: {error.strerror or error}; {remedy}.")


@contextmanager
def store_errors(what: str) -> Iterator[None]:
    """Raise what a fault of the disk means for a store."""
    try:
        yield
    except OSError as error:
        raise store_error(error, what) from error


def copy(source: Path, target: Path) -> FileEntry:
    """Copy a file in one pass and return its entry in the manifest."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(1 << 20):
            digest.update(block)
            writer.write(block)
            size += len(block)
    return FileEntry(size, digest.hexdigest())


def write(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def replace(path: Path, content: bytes) -> None:
    """Write a file as a whole: a reader sees the old content or the new one, also after a power cut."""
    partial = path.parent / f"{PARTIAL}{uuid.uuid4().hex}"
    try:
        write(partial, content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def walk(folder: Path) -> Iterator[Path]:
    """Yield all files and folders in `folder`, at any depth; what others remove meanwhile is left out.

    Raises:
        OSError: a folder cannot be read, so what is in it is not known; `Path.rglob` would pass over it.
    """
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError as error:
        if error.errno in ABSENT:
            return
        raise
    for entry in entries:
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from walk(Path(entry.path))


def last_change(path: Path) -> float | None:
    """Return when anything in a file or folder was last changed, or None if others removed it meanwhile."""
    times = []
    for one in (path, *walk(path)):
        with suppress(FileNotFoundError):
            times.append(one.lstat().st_mtime)
    return max(times, default=None)


def file_names(folder: Path) -> list[str]:
    """Return the names, relative to `folder`, of the files that a publish takes: all but its own manifest."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path.relative_to(folder).as_posix() for path in paths if path != folder / MANIFEST]


def file_digest(path: Path) -> str:
    """Return the sha256 of a file as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(folder: Path, names: Iterable[str]) -> dict[str, FileEntry]:
    """Return size and sha256 of each file of `folder`; several are read at once.

    Raises:
        OSError: a file cannot be read.
    """
    names = list(names)
    with ThreadPoolExecutor(_HASHERS) as pool:
        entries = pool.map(lambda name: FileEntry((folder / name).stat().st_size, file_digest(folder / name)), names)
        return dict(zip(names, entries, strict=True))


def is_whole(folder: Path, files: Mapping[str, FileEntry]) -> bool:
    """Tell whether `folder` has all files with their digests.

    Raises:
        OSError: a file is not there or cannot be read.
    """
    if any((folder / name).stat().st_size != entry.size for name, entry in files.items()):
        return False
    with ThreadPoolExecutor(_HASHERS) as pool:
        digests = pool.map(lambda name: file_digest(folder / name), files)
        return all(digest == entry.sha256 for digest, entry in zip(digests, files.values(), strict=True))
