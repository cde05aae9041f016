"""What interrupted publishes and deletes leave in S3: objects that no manifest names, and uploads that nobody finished."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from blocks.keys import MANIFEST
from blocks.s3_bucket import Bucket, Stored
from blocks.s3_publish import files_folder, read_manifest
from blocks.s3_upload import THREADS

_FOLDERS = ("steps", "checkpoints", "specs", "runs")


def sweep(bucket: Bucket, min_age_s: float, *, delete: bool) -> list[str]:
    """Return the addresses of leavings of at least that age; with `delete`, remove them. See `ArtifactStore`."""
    addresses = []
    for (key, upload), age_s in bucket.uploads().items():
        if age_s >= min_age_s:
            addresses.append(f"s3://{bucket.name}/{key}?uploadId={upload}")
            if delete:
                bucket.call("abort_multipart_upload", Key=key, UploadId=upload)
    for folder in _FOLDERS:
        objects = bucket.list(folder)
        old = {path for path in _unnamed(bucket, objects, objects) if objects[path].age_s >= min_age_s}
        if delete and old:
            # A publish may have found them there and named them since the listing: look once more, just before they go.
            old = _unnamed(bucket, bucket.list(folder), old)
            bucket.delete(sorted(old))
        addresses += [bucket.address(path) for path in old]
    return sorted(addresses)


def _unnamed(bucket: Bucket, objects: dict[str, Stored], paths: Iterable[str]) -> set[str]:
    """Return those of `paths` that no manifest among `objects` names."""
    keys = [path.removesuffix(f"/{MANIFEST}") for path in objects if path.endswith(f"/{MANIFEST}")]
    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(keys, pool.map(lambda key: read_manifest(bucket, key), keys), strict=True))
    named = {f"{key}/{MANIFEST}" for key in keys}
    # What a manifest of another version means is not known: nothing below it is touched.
    unknown = {key for key, value in found.items() if value and value.manifest is None}
    for key, value in found.items():
        if value and value.manifest:
            named |= {f"{files_folder(key, value.manifest)}/{name}" for name in value.manifest.files}
    return {path for path in paths if path in objects and path not in named and not _parents(path) & unknown}


def _parents(path: str) -> set[str]:
    parts = path.split("/")
    return {"/".join(parts[:depth]) for depth in range(1, len(parts))}
