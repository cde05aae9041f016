"""Files from S3, many and in ranges at once, each hashed while it arrives."""

import hashlib
import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from blocks.disk import store_errors
from blocks.errors import ArtifactDamaged, RemoteFileChanged, StoreConfigError, StoreError, StoreUnavailable
from blocks.s3_bucket import FOREIGN, Bucket
from blocks.s3_errors import is_absent, is_refused_condition, store_error
from blocks.s3_upload import MB, THREADS

PART = 16 * MB
_BLOCK = MB
_TRIES = 4
_PAUSE_S = 0.2
_PARTIAL_CONTENT = 206


@dataclass(frozen=True)
class Download:
    """One file: its path in the bucket, its path on this machine, its size; and the digest or version that it must have."""

    path: str
    file: Path
    size: int
    sha256: str | None = None
    etag: str | None = None


def download(bucket: Bucket, files: Sequence[Download]) -> None:
    """Get files; those with a sha256 are verified.

    Raises:
        ArtifactDamaged: a file is not there, or is not what its sha256 or size says.
        RemoteFileChanged: a file has not the etag that was asked for.
        StoreConfigError, StoreUnavailable: a file cannot be got.
    """
    wrong = _run(bucket, files)
    # Bytes may have changed on their way: what is wrong in the same manner twice lies there so.
    again = _run(bucket, list(wrong)) if wrong else {}
    for one, fault in again.items():
        if fault == wrong[one]:
            raise ArtifactDamaged(f"File {bucket.address(one.path)!r} {fault}; its artifact has to be made anew.")
        raise StoreUnavailable(f"The bytes of {bucket.address(one.path)!r} change on their way; try again.")


def _run(bucket: Bucket, files: Sequence[Download]) -> dict[Download, str]:
    """Get files and return what is wrong with those that are not as they should be."""
    stop = threading.Event()
    # Large files first: the small ones then fill the gaps at the end.
    incoming = [_Incoming(bucket, one, stop) for one in sorted(files, key=lambda one: -one.size)]
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            waiting = [pool.submit(one.get_part, number) for one in incoming for number in range(one.parts)]
            done, _ = wait(waiting, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
            for one in incoming:
                one.close()
    return {one.wanted: fault for one in incoming if (fault := one.fault())}


class _WrongError(Exception):
    """What the server says of a file that is not as it should be, after the file's name."""


class _Incoming:
    """A file that arrives part by part, and is hashed as far as it is there without a gap."""

    def __init__(self, bucket: Bucket, wanted: Download, stop: threading.Event) -> None:
        self.wanted = wanted
        self.parts = max(1, -(-wanted.size // PART))
        self._bucket, self._stop = bucket, stop
        self._lock = threading.Lock()
        self._there: set[int] = set()
        self._hashed, self._hashing = 0, False
        self._sha256 = hashlib.sha256()
        self._descriptor = -1
        self._fault = ""

    def fault(self) -> str:
        """Return what is wrong with the file, now that all parts were asked for; empty if nothing is."""
        digest = self._sha256.hexdigest()
        if self._fault or self.wanted.sha256 in (None, digest):
            return self._fault
        return f"is damaged (sha256 {digest})"

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def get_part(self, number: int) -> None:
        """Get part `number`, write it to its place and hash what can be hashed."""
        if self._stop.is_set():
            return
        with store_errors(f"Cannot write {str(self.wanted.file)!r}"):
            self._open()
            try:
                _get(self._bucket, self.wanted, self._descriptor, number * PART, self._stop)
            except _WrongError as error:
                self._fault = str(error)
                return
            with self._lock:
                self._there.add(number)
                if self._hashing:
                    return
                self._hashing = True
            while self._may_hash():
                self._hash_next()
        if self._hashed == self.parts:
            self.close()

    def _open(self) -> None:
        with self._lock:
            if self._descriptor < 0:
                self._descriptor = os.open(self.wanted.file, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
                if self.wanted.size:
                    # A full disk is noticed now rather than after an hour.
                    os.posix_fallocate(self._descriptor, 0, self.wanted.size)

    def _may_hash(self) -> bool:
        with self._lock:
            self._hashing = self._hashed in self._there
            return self._hashing

    def _hash_next(self) -> None:
        position = self._hashed * PART
        end = min(position + PART, self.wanted.size)
        while position < end and self.wanted.sha256:
            block = os.pread(self._descriptor, min(_BLOCK, end - position), position)
            self._sha256.update(block)
            position += len(block)
        self._hashed += 1


def _get(bucket: Bucket, wanted: Download, descriptor: int, start: int, stop: threading.Event) -> None:
    """Get the part of a file that begins at `start`; what was cut off is asked for from there on."""
    position, end = start, min(start + PART, wanted.size)
    tries = 0
    while True:
        try:
            for block in _blocks(bucket, wanted, position, end):
                os.pwrite(descriptor, block, position)
                position += len(block)
                tries = 0
                if stop.is_set():
                    return
            if position == end:
                return
            problem: StoreError = StoreUnavailable(f"The answer for {bucket.address(wanted.path)!r} was cut off; try again.")
        except FOREIGN as error:
            problem = _meaning(error, bucket, wanted)
        # A server that always breaks off at once is given up; one that gets on is not.
        tries += 1
        if not isinstance(problem, StoreUnavailable) or tries == _TRIES:
            raise problem
        stop.wait(_PAUSE_S * 2**tries)


def _blocks(bucket: Bucket, wanted: Download, position: int, end: int) -> Iterable[bytes]:
    """Ask for the bytes from `position` to `end` and yield them as they come."""
    arguments: dict[str, Any] = {"Range": f"bytes={position}-{end - 1}"} if wanted.size else {}
    if wanted.etag:
        arguments["IfMatch"] = wanted.etag
    answer = bucket.client.get_object(Bucket=bucket.name, Key=bucket.key(wanted.path), **arguments)
    body = answer["Body"]
    try:
        if answer["ResponseMetadata"]["HTTPStatusCode"] == _PARTIAL_CONTENT:
            # "bytes 0-9/100"; where the headers were cut off, this is the KeyError of an answer with broken bytes.
            whole = answer["ContentRange"].rpartition("/")[2]
        else:
            whole = str(answer["ContentLength"])
            if position:
                raise StoreConfigError(f"The server at {bucket.place.endpoint} does not answer to ranges; use another one.")
        if whole != str(wanted.size):
            raise _WrongError(f"has {whole} bytes, not {wanted.size}")
        while position < end and (block := body.read(min(_BLOCK, end - position))):
            position += len(block)
            yield block
    finally:
        body.close()


def _meaning(error: Exception, bucket: Bucket, wanted: Download) -> StoreError:
    if wanted.etag and is_refused_condition(error):
        return RemoteFileChanged(
            f"File {bucket.address(wanted.path)!r} was changed or removed after it was listed; list it again."
        )
    if is_absent(error):
        raise _WrongError("is missing")
    if isinstance(error, ClientError) and error.response.get("Error", {}).get("Code") in ("InvalidRange", "416"):
        raise _WrongError(f"has not {wanted.size} bytes")
    return store_error(error, bucket.place)
