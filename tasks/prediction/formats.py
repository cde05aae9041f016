"""How predictions are written: CSV, TSV, JSON Lines and Parquet, one part of the rows after the other."""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FORMS = (".csv", ".tsv", ".jsonl", ".parquet")
"""Endings of the names of files that can be written."""

# Source: https://owasp.org/www-community/attacks/CSV_Injection; the last four are the full-width forms of the first four.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
Row = tuple[Any, ...]


def write_rows(file: Path, form: str, schema: pa.Schema, tables: Iterable[pa.Table], separator: str) -> None:
    """Write tables of one schema as a file.

    In CSV and TSV a text that a spreadsheet would take for a formula gets an apostrophe before it; numbers don't, nor do texts
    that are one, such as an id `-5`. JSON Lines and Parquet have all texts as they are.

    Args:
        file: What to write.
        form: Of `FORMS`.
        schema: Of texts, lists of texts and numbers.
        tables: The rows.
        separator: What stands between the texts of a list in CSV and TSV.
    """
    if form == ".parquet":
        with pq.ParquetWriter(file, schema) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=max(1, len(table)))
        return
    with file.open("w", encoding="utf-8", newline="") as stream:
        if form == ".jsonl":
            for row in _rows(tables):
                content = dict(zip(schema.names, map(_finite, row), strict=True))
                stream.write(json.dumps(content, ensure_ascii=False) + "\n")
            return
        lines = csv.writer(stream, delimiter="\t" if form == ".tsv" else ",", lineterminator="\n")
        lines.writerow([harmless(name) for name in schema.names])
        for row in _rows(tables):
            lines.writerow([_cell(value, separator) for value in row])


def harmless(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def _rows(tables: Iterable[pa.Table]) -> Iterator[Row]:
    for table in tables:
        for batch in table.to_batches(max_chunksize=1_000):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _cell(value: Any, separator: str) -> Any:
    if isinstance(value, list):
        value = separator.join(value)
    return harmless(value) if isinstance(value, str) else value


def _finite(value: Any) -> Any:
    """Return a value that JSON can say: it has no infinite numbers."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
