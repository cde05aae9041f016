"""Sources in S3: chosen by their names as local files are, pinned by what S3 says of them, downloaded to be read."""

import hashlib
import json
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from blocks.artifact_store import ArtifactStore, open_store
from blocks.errors import ArtifactDamaged, RemoteFileChanged, StoreConfigError
from tasks.config import DataSettings
from tasks.data.files import SUFFIXES, check_form, open_file
from tasks.data.names import choose_files, without_notes
from tasks.data.source import SAVED_BY, Source, open_saved
from tasks.errors import DataError
from tasks.records import Split

if TYPE_CHECKING:
    # At run time, only where a source is in S3: it brings boto3 and Prefect with it.
    from blocks.s3_files import RemoteFile

_GLOB = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Found:
    """The files of a source as S3 lists them now."""

    files: "dict[Split, list[RemoteFile]]"
    """By split, in the order of their rows."""
    saved: "list[RemoteFile]"
    """Instead, all files of a folder that `save_to_disk` wrote."""
    access: ArtifactStore | None
    """The run's store, whose credentials serve for its own bucket."""

    @property
    def identity(self) -> str:
        """Return a digest that changes when a file's bytes, name or split do; no byte is read for it."""
        files = [*self.files.items(), ("", self.saved)]
        facts = [(split, file.name, file.size, file.etag) for split, found in files for file in found]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def find_remote(data: DataSettings, store: str) -> Found:
    """List the files of a source in S3 and choose those of each split.

    Args:
        data: Names the source.
        store: Address of the run's store.

    Raises:
        DataError: there is no such file, folder or bucket, it may not be read, or a file is empty or of an unknown form.
        StoreUnavailable: S3 does not answer.
    """
    access = open_store(store) if store.startswith(("s3://", "block:")) else None
    source = data.source.rstrip("/")
    there = _list(data.source, "data.source", access)
    is_file, is_glob = [file.address for file in there] == [source], bool(_GLOB.search(source))
    if not is_file and not is_glob and any(file.name in SAVED_BY for file in there):
        return Found({}, _list(f"{source}/**", "data.source", access), access)
    base = posixpath.dirname(source) if is_file or is_glob else source

    def expand(name: str, field: str) -> "list[RemoteFile]":
        if field == "data.source":
            return _suitable(there, source, field)
        address = name if "://" in name else _join(base, name)
        return _suitable(_list(address, field, access), address, field)

    files = choose_files(data, expand, lambda file: file.address, is_file=is_file)
    for file in (file for found in files.values() for file in found):
        check_form(file.address, file.size)
    return Found(files, [], access)


def open_remote(data: DataSettings, store: str, identity: str, folder: Path) -> Source:
    """Download a source to `folder`, which must stay for as long as it is read, and open its splits.

    Args:
        data: Names the source.
        store: Address of the run's store.
        identity: What the source must be still, as `Found.identity` said.
        folder: A folder that is not there yet.

    Raises:
        DataError: the source is not what it was, or what `find_remote` and the readers of files raise.
        StoreConfigError: a file cannot be got, or the disk is full.
        StoreUnavailable: S3 does not answer.
    """
    from blocks.s3_files import RemoteFile, download

    found = find_remote(data, store)
    # Two folders may have files of one name, and a key may be no name of a file here.
    local = {
        split: [(f"{split}/{number:05d}{PurePosixPath(file.name).suffix}", file) for number, file in enumerate(files)]
        for split, files in found.files.items()
    }
    renamed = [RemoteFile(file.address, name, file.size, file.etag) for files in local.values() for name, file in files]
    try:
        if found.identity != identity:
            raise RemoteFileChanged("The listing is another one.")
        download(renamed or found.saved, folder, found.access)
    # A server that does not know the condition is found out by the sizes.
    except (RemoteFileChanged, ArtifactDamaged):
        raise DataError(f"Files of {data.source!r} changed since the run began; run again.") from None
    if found.saved:
        return open_saved(data, folder)
    return {split: [open_file(folder / name, file.address) for name, file in files] for split, files in local.items()}


def _list(address: str, field: str, access: ArtifactStore | None) -> "list[RemoteFile]":
    """Return the files at an address in the order that local files have."""
    from blocks.s3_files import list_files

    try:
        files = list_files(address, access)
    except StoreConfigError as error:
        raise DataError(f"{field} {address!r} cannot be read: {error}") from None
    return sorted(files, key=lambda file: file.name.split("/"))


def _suitable(files: "list[RemoteFile]", address: str, field: str) -> "list[RemoteFile]":
    """Return those that are data: the one that is named, or what a folder or glob has but for hidden files."""
    if [file.address for file in files] == [address]:
        return files
    is_glob = bool(_GLOB.search(address))
    forms = ("",) if is_glob else SUFFIXES
    names = [PurePosixPath(file.name).name for file in files]
    fitting = [file for file, name in zip(files, names, strict=True) if not name.startswith(".") and name.lower().endswith(forms)]
    if fitting:
        return fitting if is_glob else without_notes(fitting)
    if files:
        raise DataError(f"Folder {address!r} holds no file that ends in {', '.join(SUFFIXES)}; check {field}.")
    raise DataError(f"{address!r} is not there: S3 has no file of that name, nor any in a folder of it; check {field}.")


def _join(base: str, name: str) -> str:
    """Return the address of a name in a folder, from which `..` leads up, but not out of the bucket."""
    bucket, _, folder = base.removeprefix("s3://").partition("/")
    key = f"{folder}/{name}" if folder else name
    if {".", ".."} & set(key.split("/")):
        key = posixpath.normpath(f"/{key}").lstrip("/")
    return f"s3://{bucket}/{key}"
