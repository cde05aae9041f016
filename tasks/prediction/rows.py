"""From a file to the rows that a model reads: found, checked whole before anything is computed, and cut into shards."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from blocks.artifact_store import ArtifactStore
from blocks.errors import RemoteFileChanged, StoreConfigError
from tasks.config import ExperimentConfig
from tasks.data.columns import Column
from tasks.data.files import Batch, Part, check_form, open_file
from tasks.data.rows import checked_batches, is_number
from tasks.data.source import digest_files
from tasks.data.values import blank
from tasks.errors import ConfigError, DataError
from tasks.kinds import load_kind
from tasks.kinds.kind import Kind
from tasks.prediction.request import Columns, is_remote
from tasks.trained import Trained

_FIELD = "input"


@dataclass(frozen=True)
class Source:
    """A file of rows on this machine."""

    part: Part
    path: Path
    state: tuple[int, int, int]
    """What changes when somebody writes the file."""


@dataclass(frozen=True)
class Reader:
    """How rows are read for a model."""

    kind: Kind
    columns: tuple[Column, ...]
    """What is read of the input."""
    targets: tuple[Column, ...]
    """What is not known."""
    id_column: str | None

    def batches(self, part: Part) -> Iterator[Batch]:
        """Yield checked rows: `id` and a list per role; targets are blank.

        Raises:
            DataError: names the file, the row, the column, the value and the remedy.
        """
        blanks = {column.role: blank(column.form) for column in self.targets}
        roles = {column.role for column in self.columns}

        def check(row: Mapping[str, Any]) -> tuple[str, str] | None:
            fault = self.kind.fault({**blanks, **row})
            return fault if fault and fault[0] in roles else None

        for batch in checked_batches(part, self.columns, self.id_column, check, id_setting="id_column"):
            yield {**batch, **{role: [value] * len(batch["id"]) for role, value in blanks.items()}}

    @property
    def text(self) -> Column:
        """The column that a row without a text there has no prediction for."""
        return next(column for column in self.columns if column.form == "text")


@dataclass(frozen=True)
class Survey:
    """What a pass through the rows found."""

    rows: int
    only_numbers: bool
    """Whether all texts are numbers: perhaps the wrong column."""


def make_reader(trained: Trained, columns: Columns, part: Part) -> tuple[Reader, Part]:
    """Return how a file is read for a model, and the file in the form of the model's kind.

    Args:
        trained: The model.
        columns: What columns are called here, where that is not as it was in training.
        part: The file.

    Raises:
        ConfigError: a column is named that the model does not read.
    """
    config = _renamed(trained, columns)
    kind = load_kind(trained.kind_name)(config, tuple(trained.labels))
    every, trained_on = kind.columns(), load_kind(trained.kind_name)(trained.config).columns()
    read = tuple(replace(one, setting=one.setting.removeprefix("data.")) for one in every if one.is_input)
    names = {one.name for one in read} | {columns.id_column}
    unused = [field for field, name in columns.given().items() if name not in names]
    if unused or [one.role for one in every] != [one.role for one in trained_on]:
        used = ", ".join(repr(one.setting.removeprefix("data.")) for one in trained_on if one.is_input)
        given = ", ".join(columns.given())
        raise ConfigError(f"Set are {given}, but the model was trained on other columns; it reads {used}.")
    adapted = kind.adapt(part)
    # A model may have been trained on rows with ids, and be asked about some without.
    here = config.data.id_column if columns.id_column or config.data.id_column in adapted.columns else None
    return Reader(kind, read, tuple(one for one in every if not one.is_input), here), adapted


def _renamed(trained: Trained, columns: Columns) -> ExperimentConfig:
    data, given = trained.config.data, columns.given()
    if unknown := [field for field in given if field not in type(data).model_fields]:
        known = ", ".join(repr(field) for field in Columns.model_fields if field in type(data).model_fields)
        raise ConfigError(f"{unknown[0]} is set, but a model of {trained.kind_name} has none; its columns are {known}.")
    return trained.config.model_copy(update={"data": data.model_copy(update=given)})


def survey(reader: Reader, part: Part, limit: int | None = None) -> Survey:
    """Read and check all rows, or so many of them.

    Raises:
        DataError: a row is wrong, or no row has a text.
    """
    rows, empty, only_numbers = 0, True, True
    for batch in reader.batches(part):
        texts = [text for text in batch[reader.text.role] if text.strip()]
        empty = empty and not texts
        only_numbers = only_numbers and all(map(is_number, texts))
        rows += len(batch["id"])
        if limit is not None and rows >= limit:
            break
    else:
        if empty:
            column = reader.text
            raise DataError(f"All texts of {part.where!r} are empty in column {column.name!r}. Set {column.setting}.")
    return Survey(rows, only_numbers and not empty)


def shards(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Yield rows in shards of `size`, the last one of what is left."""
    waiting: Batch = {}
    for batch in batches:
        for start in range(0, len(batch["id"]), size):
            for role, values in batch.items():
                waiting.setdefault(role, []).extend(values[start : start + size])
            if len(waiting["id"]) >= size:
                yield {role: values[:size] for role, values in waiting.items()}
                waiting = {role: values[size:] for role, values in waiting.items()}
    if waiting and waiting["id"]:
        yield waiting


def open_source(address: str, store: ArtifactStore, scratch: Path) -> tuple[Source, str]:
    """Open a file, and return a digest that tells its bytes from others; one in S3 is downloaded first.

    Args:
        address: A path, or `s3://bucket/key`.
        store: Has the credentials for its own bucket.
        scratch: A folder that stays for as long as rows are read.

    Raises:
        DataError: it is not there, or is empty, damaged or of an unknown form.
        StoreUnavailable: S3 does not answer.
    """
    if not is_remote(address):
        path = Path(address).expanduser()
        part = open_file(path, address, setting=_FIELD)
        return Source(part, path, state_of(path)), digest_files([(path.suffix.lower(), path)])
    from blocks.s3_files import RemoteFile, download

    file = find_remote_file(address, store)
    local = RemoteFile(file.address, f"input{PurePosixPath(file.name).suffix}", file.size, file.etag)
    try:
        download([local], scratch, store)
    except RemoteFileChanged:
        raise DataError(f"Input {address!r} changed while it was read; run again.") from None
    path = scratch / local.name
    identity = hashlib.sha256(f"{path.suffix.lower()}\0{file.size}\0{file.etag}".encode()).hexdigest()
    return Source(open_file(path, address, setting=_FIELD), path, state_of(path)), identity


def find_remote_file(address: str, store: ArtifactStore) -> Any:
    """Return the one file of an address in S3.

    Raises:
        DataError: it is not there, cannot be read, or is empty or of an unknown form.
    """
    from blocks.s3_files import list_files

    try:
        files = list_files(address, store)
    except StoreConfigError as error:
        raise DataError(f"Input {address!r} cannot be read: {error}") from None
    if [file.address for file in files] != [address]:
        raise DataError(f"Input {address!r} is not there: S3 has no file of that name; check {_FIELD}.")
    check_form(address, files[0].size, _FIELD)
    return files[0]


def state_of(path: Path) -> tuple[int, int, int]:
    """Return what changes when somebody writes a file."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
