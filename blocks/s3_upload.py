"""Files to S3, many and in parts at once."""

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3transfer.manager import TransferConfig, TransferManager

from blocks.manifest import FileEntry
from blocks.s3_bucket import FOREIGN, Bucket
from blocks.s3_errors import store_error

MB = 1 << 20
# The library makes them larger for files of more than 10,000 parts.
PART = 8 * MB
THREADS = 10


@dataclass(frozen=True)
class Upload:
    """One file: its path in the bucket, its path on this machine, and what it must be."""

    path: str
    file: Path
    entry: FileEntry


def upload(bucket: Bucket, files: Iterable[Upload]) -> None:
    """Send files, large ones in parts, each with its sha256 as metadata; when one fails, unfinished uploads are aborted.

    Raises:
        StoreConfigError, StoreUnavailable: a file cannot be sent.
    """
    config = TransferConfig(
        multipart_threshold=PART, multipart_chunksize=PART, max_request_concurrency=THREADS, max_submission_concurrency=2
    )
    try:
        # Leaving it by an exception cancels and aborts what is under way.
        with TransferManager(bucket.client, config) as manager:
            waiting = [
                manager.upload(str(one.file), bucket.name, bucket.key(one.path), _arguments(bucket, one.entry)) for one in files
            ]
            for future in waiting:
                future.result()
        return
    except FOREIGN as error:
        problem = store_error(error, bucket.place)
    raise problem


def _arguments(bucket: Bucket, entry: FileEntry) -> dict[str, Any]:
    arguments: dict[str, Any] = {"Metadata": {"sha256": entry.sha256}, **bucket.put_arguments}
    if entry.size < PART:
        # The server checks it. Of an upload in parts it could only check a digest of the parts' digests.
        arguments["ChecksumSHA256"] = b64encode(bytes.fromhex(entry.sha256)).decode()
    return arguments
