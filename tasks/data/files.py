"""Reading files strictly: CSV, TSV, JSON, JSON Lines, Parquet and plain text, in batches; every error names file and row."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.errors import DataError
from tasks.text import one_line

BATCH_ROWS = 1000
TEXT_SUFFIX = ".txt"
"""Of plain text. In a folder that holds other data files too, such files are taken for notes on them."""
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", TEXT_SUFFIX)

Batch = dict[str, list[Any]]
# A text in one field can be long; csv's own limit of 128 KiB would refuse it.
csv.field_size_limit(1 << 30)


@dataclass(frozen=True)
class Part:
    """One file, or one split of a dataset: its columns, and its rows in batches of `BATCH_ROWS`."""

    where: str
    """What to call it in messages."""
    columns: tuple[str, ...]
    read: Callable[[list[str]], Iterator[Batch]]
    """Columns wanted -> batches of column name to values, in the order of the source."""
    first_row: int = 1
    """The number that messages give the first row."""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column to the names of its integer labels, where the source knows them."""
    lines: bool = False
    """Whether it is plain text: a row a line, blank ones too, in the column `text`."""
    setting: str = "data.source"
    """The setting that names it, for messages."""


def open_file(path: Path, where: str | None = None, *, setting: str = "data.source") -> Part:
    """Open a file by its suffix; its header is read, its rows are not.

    Args:
        path: The file on this machine.
        where: What to call it in messages; None: its path.
        setting: The setting that names it, for messages.

    Raises:
        DataError: the file is missing, empty, of an unknown form or damaged.
    """
    where = where or str(path)
    if not path.is_file():
        raise DataError(f"File {where!r} is not there; check {setting}.")
    check_form(where, path.stat().st_size, setting)
    return replace(_open(path, where), setting=setting)


def _open(path: Path, where: str) -> Part:
    match path.suffix.lower():
        case ".csv":
            return _open_delimited(path, where, ",")
        case ".tsv":
            return _open_delimited(path, where, "\t")
        case ".parquet":
            return _open_parquet(path, where)
        case ".json":
            return _open_json(path, where)
        case suffix if suffix == TEXT_SUFFIX:
            return _open_text(path, where)
        case _:
            return _open_json_lines(path, where)


def check_form(where: str, size: int, setting: str = "data.source") -> None:
    """Check what the name and size of a file tell.

    Raises:
        DataError: it is empty or of an unknown form.
    """
    if PurePosixPath(where).suffix.lower() not in SUFFIXES:
        raise DataError(f"File {where!r} is of an unknown form; use one of {', '.join(SUFFIXES)}.")
    if size == 0:
        raise DataError(f"File {where!r} is empty; check {setting}.")


def _open_delimited(path: Path, where: str, delimiter: str) -> Part:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header = next(_delimited_rows(path, where, stream, delimiter), (1, []))[1]
    if len(header) == 1 and (other := next((sign for sign in ",;\t|" if sign != delimiter and sign in header[0]), None)):
        raise DataError(
            f"File {where!r} has the one column {one_line(repr(header[0]), 80)}, which looks separated by {other!r}; "
            f"separate its fields by {delimiter!r}."
        )
    _refuse_repeated(where, header)

    def read(columns: list[str]) -> Iterator[Batch]:
        places = [header.index(name) for name in columns]
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = _delimited_rows(path, where, stream, delimiter)
            next(rows)
            while lines := list(islice(rows, BATCH_ROWS)):
                for line, fields in lines:
                    if len(fields) != len(header):
                        raise DataError(
                            f"File {where!r}, line {line}: {len(fields)} fields, but the header has {len(header)}; "
                            f"put fields that hold {delimiter!r} or a line break in double quotes."
                        )
                yield {name: [fields[place] for _, fields in lines] for name, place in zip(columns, places, strict=True)}

    return Part(where, tuple(header), read, first_row=1)


def _refuse_repeated(where: str, columns: list[str]) -> None:
    if repeated := next((name for name in columns if columns.count(name) > 1), None):
        raise DataError(f"File {where!r} has more than one column {repeated!r}; rename one.")


def _delimited_rows(path: Path, where: str, stream: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number of the row's end, fields), blank lines left out."""
    reader = csv.reader(_without_nul(where, stream), delimiter=delimiter, strict=True)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise DataError(f"File {where!r}, line {reader.line_num}: {error}; check its quotes.") from None
    except UnicodeDecodeError:
        raise _not_utf8(path, where) from None


def _without_nul(where: str, lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise DataError(f"File {where!r}, line {number}: holds a NUL byte; remove it.")
        yield line


def _not_utf8(path: Path, where: str) -> DataError:
    """Find the first line that is not UTF-8: the decoder reads ahead, so its own position is of no use."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                bad = line[error.start : error.start + 1]
                return DataError(f"File {where!r}, line {number}: byte {bad!r} is not UTF-8; save the file as UTF-8.")
    return DataError(f"File {where!r} is not UTF-8; save the file as UTF-8.")


def _open_json_lines(path: Path, where: str) -> Part:
    def rows() -> Iterator[dict[str, Any]]:
        try:
            with path.open(encoding="utf-8-sig") as stream:
                for number, line in enumerate(_without_nul(where, stream), 1):
                    if line.strip():
                        yield _json_row(where, f"line {number}", line)
        except UnicodeDecodeError:
            raise _not_utf8(path, where) from None

    return _rows_part(where, rows)


def _open_text(path: Path, where: str) -> Part:
    def read(columns: list[str]) -> Iterator[Batch]:
        try:
            with path.open(encoding="utf-8-sig") as stream:
                lines = (line.rstrip("\n") for line in _without_nul(where, stream))
                while batch := list(islice(lines, BATCH_ROWS)):
                    yield dict.fromkeys(columns, batch)
        except UnicodeDecodeError:
            raise _not_utf8(path, where) from None

    return Part(where, ("text",), read, lines=True)


def _json_row(where: str, place: str, text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"File {where!r}, {place}: not JSON ({one_line(error, 100)}).") from None
    if not isinstance(row, dict):
        raise DataError(f"File {where!r}, {place}: {one_line(repr(row), 80)} is not an object of fields and values.")
    return row


def _open_json(path: Path, where: str) -> Part:
    """Open a JSON file: a list of objects, or such a list as the only list of an object; or JSON Lines by another name."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise _not_utf8(path, where) from None
    if "\0" in text:
        raise DataError(f"File {where!r}, line {text[: text.index(chr(0))].count(chr(10)) + 1}: holds a NUL byte; remove it.")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{") and "Extra data" in str(error):
            return _open_json_lines(path, where)
        raise DataError(f"File {where!r} is not JSON ({one_line(error, 100)}).") from None
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 and all(isinstance(row, dict) for row in lists[0]) else [content]
    if not isinstance(content, list):
        raise DataError(f"File {where!r} is not a list of objects.")
    for number, row in enumerate(content, 1):
        if not isinstance(row, dict):
            raise DataError(f"File {where!r}, row {number}: {one_line(repr(row), 80)} is not an object of fields and values.")
    return _rows_part(where, lambda: iter(content))


def _rows_part(where: str, rows: Callable[[], Iterator[dict[str, Any]]]) -> Part:
    """Make a part of rows that are objects; a field that a row lacks is null, one that the first batch lacks is no column."""
    columns = tuple(dict.fromkeys(name for row in islice(rows(), BATCH_ROWS) for name in row))

    def read(wanted: list[str]) -> Iterator[Batch]:
        remaining = rows()
        while batch := list(islice(remaining, BATCH_ROWS)):
            yield {name: [row.get(name) for row in batch] for name in wanted}

    return Part(where, columns, read)


def _open_parquet(path: Path, where: str) -> Part:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_schema(path).names
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"File {where!r} is not Parquet or is damaged ({one_line(error, 100)}); write it anew.") from None
    _refuse_repeated(where, columns)

    def read(wanted: list[str]) -> Iterator[Batch]:
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=wanted):
                    yield {name: batch.column(name).to_pylist() for name in wanted}
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"File {where!r} is damaged ({one_line(error, 100)}); write it anew.") from None
        except UnicodeDecodeError:
            raise DataError(f"File {where!r} holds text that is not UTF-8; write it anew as UTF-8.") from None

    return Part(where, tuple(columns), read)
