"""How an artifact gets into S3 and stays whole while others write, delete and read the same key.

S3 has no rename. So the files of a shared key lie in a folder named by their content, `<key>/<content>/`, and the manifest,
written last and only if there is none, names that folder: writers with different bytes never touch each other's objects, and the
first manifest wins.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blocks.cache import FetchCache
from blocks.disk import file_names, hash_files, store_errors
from blocks.errors import StoreUnavailable
from blocks.keys import MANIFEST, check_file_names
from blocks.manifest import Manifest, Record, make_manifest, parse_manifest, write_manifest
from blocks.s3_bucket import Bucket, Stored
from blocks.s3_upload import Upload, upload

_ROUNDS = 3
_SWAPS = 5


@dataclass(frozen=True)
class Found:
    """A manifest as it lies in the store; `manifest` is None where its bytes are not one."""

    manifest: Manifest | None
    etag: str


def read_manifest(bucket: Bucket, key: str) -> Found | None:
    """Return what lies at the place of the manifest of `key`, or None if nothing does."""
    answer = bucket.get(f"{key}/{MANIFEST}")
    return None if answer is None else Found(parse_manifest(answer[0]), answer[1])


def files_folder(key: str, manifest: Manifest) -> str:
    """Return the path of the folder with an artifact's files."""
    return f"{key}/{manifest.folder}" if manifest.folder else key


def is_listed(key: str, manifest: Manifest, objects: dict[str, Stored]) -> bool:
    """Tell whether all files of an artifact are among `objects` with their sizes."""
    folder = files_folder(key, manifest)
    return all(
        (found := objects.get(f"{folder}/{name}")) is not None and found.size == entry.size
        for name, entry in manifest.files.items()
    )


def is_whole(bucket: Bucket, key: str, manifest: Manifest) -> bool:
    """Tell whether all files of an artifact are in the store with their sizes."""
    return is_listed(key, manifest, bucket.list(files_folder(key, manifest)))


def publish(
    bucket: Bucket,
    cache: FetchCache,
    folder: Path,
    key: str,
    record: Record,
    *,
    inputs: Sequence[str],
    made_by: str,
    own: bool,
) -> None:
    """Publish a folder; see `ArtifactStore`."""
    if not own and (found := read_manifest(bucket, key)) and found.manifest and is_whole(bucket, key, found.manifest):
        return
    with store_errors(f"Cannot read {str(folder)!r}"):
        names = file_names(folder)
        check_file_names(names)
        files = hash_files(folder, names)
    manifest = make_manifest(files, record, inputs=inputs, made_by=made_by, shared=not own)
    for _ in range(_ROUNDS):
        if own:
            _write_own(bucket, folder, key, manifest)
        elif not _write_shared(bucket, folder, key, manifest):
            return
        # Whoever deleted the key meanwhile may have taken objects that were there already and so were not sent again.
        if is_whole(bucket, key, manifest):
            if not own:
                cache.add(manifest, folder)
            return
    raise StoreUnavailable(f"Cannot publish {bucket.address(key)!r}: other runs keep removing its files; try again.")


def _write_own(bucket: Bucket, folder: Path, key: str, manifest: Manifest) -> None:
    """Replace what an earlier attempt left: without its manifest it does not exist while its files are exchanged."""
    bucket.delete([f"{key}/{MANIFEST}"])
    left = bucket.list(key)
    _send(bucket, folder, key, manifest, left)
    bucket.delete(left.keys() - {f"{key}/{name}" for name in manifest.files})
    bucket.put(f"{key}/{MANIFEST}", write_manifest(manifest))


def _write_shared(bucket: Bucket, folder: Path, key: str, manifest: Manifest) -> bool:
    """Send the files, then the manifest if no other is there; return whether the key now has these files."""
    place = files_folder(key, manifest)
    _send(bucket, folder, key, manifest, bucket.list(place))
    text = write_manifest(manifest, nonce=uuid.uuid4().hex)
    path = f"{key}/{MANIFEST}"
    for _ in range(_SWAPS):
        if bucket.put_if(path, text, None):
            return True
        found = read_manifest(bucket, key)
        if found is None:
            continue
        other = found.manifest
        is_same = other is not None and other.folder == manifest.folder
        if other is not None and is_whole(bucket, key, other):
            if not is_same:
                bucket.delete(f"{place}/{name}" for name in manifest.files)
            return is_same
        if bucket.put_if(path, text, found.etag):
            if other is not None and not is_same:
                bucket.delete(f"{files_folder(key, other)}/{name}" for name in other.files)
            return True
    raise StoreUnavailable(f"Cannot publish {bucket.address(key)!r}: other runs keep changing it; try again.")


def _send(bucket: Bucket, folder: Path, key: str, manifest: Manifest, there: dict[str, Stored]) -> None:
    """Send the files, but for those that are there with the same size and sha256."""
    place = files_folder(key, manifest)
    uploads = [Upload(f"{place}/{name}", folder / name, entry) for name, entry in manifest.files.items()]
    upload(
        bucket,
        [
            one
            for one in uploads
            if not (
                (found := there.get(one.path)) and found.size == one.entry.size and bucket.sha256_of(one.path) == one.entry.sha256
            )
        ],
    )
