"""A file that is made shard by shard and appears whole: on this machine or in S3, with the finished shards kept beside it.

The shards of `OUTPUT` lie in `OUTPUT.parts/<identity>/`, where the identity says what they were made of. A shard's name has its
number and the sha256 of its bytes, so one that is damaged is found out. Once the file is there, `OUTPUT.parts/` goes.
"""

import os
import re
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from blocks.artifact_store import ArtifactStore
from blocks.disk import PARTIAL, copy, file_digest, store_errors
from blocks.errors import ArtifactDamaged, StoreConfigError
from blocks.manifest import FileEntry

if TYPE_CHECKING:
    from blocks.s3_bucket import Bucket

_PARTS = ".parts"
_SHARD = re.compile(r"[0-9a-f]{32}/(\d{6,})-([0-9a-f]{64})")


@dataclass(frozen=True)
class Shard:
    """A finished shard: its number, the size in bytes and the sha256 of its file."""

    identity: str
    number: int
    size: int
    sha256: str

    @property
    def path(self) -> str:
        """Return its path in the folder of the parts."""
        return f"{self.identity}/{self.number:06d}-{self.sha256}"


class ShardedOutput(Protocol):
    """Where a file and its shards go. Every method raises `StoreUnavailable` or `StoreConfigError` where that fails."""

    def shards(self, identity: str) -> dict[int, Shard]:
        """Return the finished shards of an identity, 32 hex digits, by number."""

    def put(self, identity: str, number: int, file: Path) -> Shard:
        """Keep a file as a shard, which appears whole or not at all."""

    def get(self, shard: Shard, scratch: Path) -> Path:
        """Return a file on this machine with a shard's verified bytes, perhaps in the folder `scratch`.

        Raises:
            ArtifactDamaged: it is gone or damaged, and has been removed.
        """

    def finish(self, file: Path) -> None:
        """Put the whole file in its place, in one move, and remove all shards of any identity."""


def open_output(address: str, like: ArtifactStore | None = None) -> ShardedOutput:
    """Open the place of a file: a path, or `s3://bucket/key`.

    Args:
        address: The file's.
        like: A store whose credentials and endpoint are used if it is in the same bucket; else boto3's own chain is.

    Raises:
        StoreConfigError: the address is malformed.
    """
    if not address.startswith("s3://"):
        return LocalOutput(Path(address).expanduser().absolute())
    from blocks.s3_files import bucket_of, split_address

    name, key = split_address(address)
    if not key or key.endswith("/"):
        raise StoreConfigError(f"Address {address!r} names no file; give s3://bucket/key.")
    return S3Output(bucket_of(name, like), key)


class LocalOutput:
    """A file of this machine. See `ShardedOutput`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts = path.with_name(f"{path.name}{_PARTS}")

    def shards(self, identity: str) -> dict[int, Shard]:
        """See `ShardedOutput`."""
        folder = self.parts / identity
        with store_errors(f"Cannot read {str(folder)!r}"):
            found = [(path, path.stat().st_size) for path in folder.iterdir()] if folder.is_dir() else []
        return _by_number((f"{identity}/{path.name}", size) for path, size in found)

    def put(self, identity: str, number: int, file: Path) -> Shard:
        """See `ShardedOutput`."""
        with store_errors(f"Cannot write beside {str(self.path)!r}"):
            partial, entry = self._take(file)
            shard = Shard(identity, number, entry.size, entry.sha256)
            (self.parts / identity).mkdir(exist_ok=True)
            partial.replace(self.parts / shard.path)
        return shard

    def get(self, shard: Shard, scratch: Path) -> Path:
        """See `ShardedOutput`."""
        path = self.parts / shard.path
        with store_errors(f"Cannot read {str(path)!r}"):
            if path.is_file() and file_digest(path) == shard.sha256:
                return path
            path.unlink(missing_ok=True)
        raise ArtifactDamaged(f"Shard {str(path)!r} is missing or damaged; it has to be made anew.")

    def finish(self, file: Path) -> None:
        """See `ShardedOutput`."""
        with store_errors(f"Cannot write {str(self.path)!r}"):
            partial, _ = self._take(file)
            partial.replace(self.path)
            _to_disk(self.path.parent)
            self._clear()

    def _take(self, file: Path) -> tuple[Path, FileEntry]:
        """Copy a file to the disk that it is to be on, under a name that nobody reads."""
        self.parts.mkdir(parents=True, exist_ok=True)
        partial = self.parts / f"{PARTIAL}{uuid.uuid4().hex}"
        entry = copy(file, partial)
        _to_disk(partial)
        return partial, entry

    def _clear(self) -> None:
        """Remove what is ours; whatever else lies there stays, and so does its folder."""
        for path in self.parts.glob(f"{PARTIAL}*"):
            path.unlink(missing_ok=True)
        for path in self.parts.glob("*/*"):
            if _SHARD.fullmatch(f"{path.parent.name}/{path.name}"):
                path.unlink(missing_ok=True)
        for folder in (*(path for path in self.parts.iterdir() if path.is_dir()), self.parts):
            with suppress(OSError):
                folder.rmdir()


class S3Output:
    """An object in S3. See `ShardedOutput`."""

    def __init__(self, bucket: "Bucket", key: str) -> None:
        self.bucket, self.key = bucket, key
        self.parts = f"{key}{_PARTS}/"

    def shards(self, identity: str) -> dict[int, Shard]:
        """See `ShardedOutput`."""
        found = self.bucket.scan(f"{self.parts}{identity}/")
        return _by_number((path.removeprefix(self.parts), one.size) for path, one in found.items())

    def put(self, identity: str, number: int, file: Path) -> Shard:
        """See `ShardedOutput`."""
        with store_errors(f"Cannot read {str(file)!r}"):
            shard = Shard(identity, number, file.stat().st_size, file_digest(file))
        self._send(f"{self.parts}{shard.path}", file, FileEntry(shard.size, shard.sha256))
        return shard

    def get(self, shard: Shard, scratch: Path) -> Path:
        """See `ShardedOutput`."""
        from blocks.s3_download import Download, download

        path, file = f"{self.parts}{shard.path}", scratch / f"{shard.number:06d}"
        with store_errors(f"Cannot read {str(file)!r}"):
            if file.is_file() and file_digest(file) == shard.sha256:
                return file
        try:
            download(self.bucket, [Download(path, file, shard.size, shard.sha256)])
        except ArtifactDamaged:
            self.bucket.delete([path])
            raise
        return file

    def finish(self, file: Path) -> None:
        """See `ShardedOutput`."""
        with store_errors(f"Cannot read {str(file)!r}"):
            entry = FileEntry(file.stat().st_size, file_digest(file))
        self._send(self.key, file, entry)
        paths = self.bucket.scan(self.parts)
        self.bucket.delete(path for path in paths if _SHARD.fullmatch(path.removeprefix(self.parts)))

    def _send(self, path: str, file: Path, entry: FileEntry) -> None:
        from blocks.s3_upload import Upload, upload

        upload(self.bucket, [Upload(path, file, entry)])


def _by_number(files: Iterable[tuple[str, int]]) -> dict[int, Shard]:
    """Return the shards among files, given as paths in the folder of the parts and sizes."""
    found = {}
    for path, size in files:
        if match := _SHARD.fullmatch(path):
            shard = Shard(path.partition("/")[0], int(match[1]), size, match[2])
            found[shard.number] = shard
    return found


def _to_disk(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
