"""How an artifact comes from S3 to this machine, whole or not at all."""

from functools import partial
from pathlib import Path

from blocks.cache import FetchCache
from blocks.errors import ArtifactDamaged
from blocks.keys import MANIFEST
from blocks.manifest import Manifest
from blocks.s3_bucket import Bucket
from blocks.s3_download import Download, download
from blocks.s3_publish import Found, files_folder, read_manifest

_ROUNDS = 3


def fetch(bucket: Bucket, cache: FetchCache, key: str) -> Path:
    """Return the folder of an artifact in the cache; see `ArtifactStore`."""
    found = read_manifest(bucket, key)
    for _ in range(_ROUNDS):
        if found is None or found.manifest is None:
            break
        try:
            return cache.fetch(found.manifest, partial(_download, bucket, key, found.manifest))
        except ArtifactDamaged:
            before, found = found, read_manifest(bucket, key)
            # Another one may have been published in its place while this one was read.
            if found and found.etag == before.etag:
                break
    if found:
        _unpublish(bucket, key, found)
    raise ArtifactDamaged(f"Artifact {key!r} at {bucket.address(key)!r} is missing or damaged; run again to make it anew.")


def _download(bucket: Bucket, key: str, manifest: Manifest, target: Path) -> None:
    place = files_folder(key, manifest)
    for name in manifest.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
    files = manifest.files.items()
    download(bucket, [Download(f"{place}/{name}", target / name, entry.size, entry.sha256) for name, entry in files])


def _unpublish(bucket: Bucket, key: str, found: Found) -> None:
    """Take a damaged artifact away, unless another one has been published in its place."""
    now = read_manifest(bucket, key)
    if now and now.etag == found.etag:
        bucket.delete([f"{key}/{MANIFEST}"])
        # Its objects too: a publish would find them there, with the right size and digest in their metadata.
        if found.manifest:
            bucket.delete(f"{files_folder(key, found.manifest)}/{name}" for name in found.manifest.files)
