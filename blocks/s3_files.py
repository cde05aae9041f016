"""Files that somebody put into S3, such as datasets: listed by address, downloaded as listed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blocks.artifact_store import ArtifactStore
from blocks.disk import store_errors
from blocks.errors import StoreConfigError
from blocks.keys import are_file_names, check_file_names
from blocks.s3_bucket import Bucket, Stored
from blocks.s3_client import Settings, client_for
from blocks.s3_download import Download
from blocks.s3_download import download as get

_GLOB = re.compile(r"[*?[]")


@dataclass(frozen=True)
class RemoteFile:
    """A file in S3 as it was listed; `name` is its path below the folder that was asked for, `size` in bytes."""

    address: str
    name: str
    size: int
    etag: str


def list_files(address: str, like: ArtifactStore | None = None) -> list[RemoteFile]:
    """Return the files at an address, sorted: of one object, of a folder without those below it, or of a glob.

    In a glob `*`, `?` and `[…]` stay within a folder, `**` goes through folders.

    Args:
        address: `s3://bucket/key`.
        like: A store whose credentials and endpoint are used if it is in the same bucket; else boto3's own chain is.

    Raises:
        StoreConfigError: the address is malformed, or its bucket cannot be read.
        StoreUnavailable: the server does not answer.
    """
    name, key = split_address(address)
    bucket = bucket_of(name, like)
    if glob := _GLOB.search(key):
        literal = key[: glob.start()]
        pattern = re.compile(_regex(key))
        found = [one for one in bucket.scan(literal).values() if pattern.fullmatch(one.path)]
        folder = literal.rpartition("/")[0]
    else:
        found, folder = _plain(bucket, key.rstrip("/"))
    files = [
        RemoteFile(f"s3://{name}/{one.path}", one.path.removeprefix(f"{folder}/" if folder else ""), one.size, one.etag)
        for one in found
        # Consoles and sync programs make empty objects in place of folders.
        if one.size or not one.path.endswith("/")
    ]
    return sorted(files, key=lambda file: file.name)


def download(files: Sequence[RemoteFile], folder: Path, like: ArtifactStore | None = None) -> None:
    """Download files to their names below `folder`, as they were when they were listed.

    Raises:
        RemoteFileChanged: a file is another one by now, or is gone.
        StoreConfigError: a file cannot be read, its name cannot be used here, or the disk is full.
        StoreUnavailable: the server does not answer.
    """
    check_file_names(file.name for file in files)
    if len({file.name for file in files}) < len(files) or not are_file_names(file.name for file in files):
        raise StoreConfigError("Two of the files, or a file and a folder, have the same name; choose fewer files.")
    groups: dict[str, list[Download]] = {}
    with store_errors(f"Cannot write in {str(folder)!r}"):
        for file in files:
            target = folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            bucket, key = split_address(file.address)
            groups.setdefault(bucket, []).append(Download(key, target, file.size, etag=file.etag))
    for bucket, group in groups.items():
        get(bucket_of(bucket, like), group)


def split_address(address: str) -> tuple[str, str]:
    """Return bucket and key of `s3://bucket/key`.

    Raises:
        StoreConfigError: it is malformed, or holds credentials.
    """
    scheme, _, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    # What may be a secret is not repeated.
    if "@" in bucket or (":" in bucket and scheme == "s3"):
        raise StoreConfigError(
            "The address seems to hold credentials; leave them out: the environment, a profile, a role or a block has them."
        )
    if scheme != "s3" or not bucket or "\0" in address:
        raise StoreConfigError(f"Address {address!r} is not of the form s3://bucket/key; mend it.")
    return bucket, key


def bucket_of(name: str, like: ArtifactStore | None) -> Bucket:
    """Return the bucket of a name, with the access and the encryption of a store in it, or else what boto3's own chain gives."""
    from blocks.s3_store import S3Store

    if isinstance(like, S3Store) and like.bucket == name:
        return Bucket(like.objects.client, name, put_arguments=like.objects.put_arguments)
    return Bucket(client_for(Settings()), name)


def _plain(bucket: Bucket, key: str) -> tuple[list[Stored], str]:
    """Return the object at `key`, or else those right below it, and the folder that they are in."""
    if key:
        there = bucket.scan(key, delimiter="/")
        if key in there:
            return [there[key]], key.rpartition("/")[0]
    return list(bucket.scan(f"{key}/" if key else "", delimiter="/").values()), key


def _regex(glob: str) -> str:
    """Return the regular expression of a glob."""
    parts = re.findall(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]]*\]|.", glob, re.DOTALL)
    known = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(part) or (_set(part) if len(part) > 1 else re.escape(part)) for part in parts)


def _set(part: str) -> str:
    inner = part[1:-1].replace("\\", "\\\\").replace("[", "\\[")
    return f"[^/{inner[1:]}]" if inner[0] in "!^" else f"(?!/)[{inner}]"
