"""Reading local files: what each form yields, that it comes in batches, and the one line that names each fault."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.data.files import BATCH_ROWS, open_file
from tasks.errors import DataError

LINES = "".join(json.dumps({"text": text, "label": text[0]}) + "\n" for text in ("a b", "c d"))


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path, *columns: str) -> list[tuple[Any, ...]]:
    part = open_file(path)
    return [row for batch in part.read(list(columns)) for row in zip(*(batch[name] for name in columns), strict=True)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.csv", "label,text\na,a b\nc,c d\n", id="csv"),
        pytest.param("a.CSV", "text,label\na b,a\nc d,c", id="upper-case suffix, no last line break"),
        pytest.param("a.csv", "text,label\r\na b,a\r\nc d,c\r\n", id="CRLF"),
        pytest.param("a.csv", "text,label\ra b,a\rc d,c\r", id="CR"),
        pytest.param("a.csv", "\ufefftext,label\na b,a\nc d,c\n", id="byte order mark"),
        pytest.param("a.csv", "\ntext,label\n\na b,a\n\n\nc d,c\n\n", id="blank lines"),
        pytest.param("a.csv", '"text","label"\n"a b","a"\n"c d",c\n', id="quoted"),
        pytest.param("a.tsv", "text\tlabel\na b\ta\nc d\tc\n", id="tsv"),
        pytest.param("a.jsonl", LINES, id="json lines"),
        pytest.param("a.ndjson", "\ufeff\n" + LINES.replace("\n", "\r\n\r\n"), id="json lines with blank ones, CRLF and a mark"),
        pytest.param("a.json", LINES, id="json lines under another name"),
        pytest.param("a.json", f"[{','.join(LINES.splitlines())}]", id="json list"),
        pytest.param("a.json", f'{{"version": "1", "data": [{",".join(LINES.splitlines())}]}}', id="the only list of an object"),
    ],
)
def test_two_rows_are_read_from_every_text_form(tmp_path: Path, name: str, content: str) -> None:
    path = write(tmp_path, name, content)
    assert set(open_file(path).columns) == {"text", "label"}
    assert read(path, "text", "label") == [("a b", "a"), ("c d", "c")]


def test_parquet_keeps_types_and_reads_only_the_wanted_columns(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", None], "label": [1, 2], "when": pa.array([0, 1], pa.timestamp("ns"))})
    pq.write_table(table, tmp_path / "a.parquet")
    part = open_file(tmp_path / "a.parquet")
    assert part.columns == ("text", "label", "when")
    assert list(part.read(["label", "text"])) == [{"label": [1, 2], "text": ["a", None]}]


def test_quoted_fields_may_hold_quotes_delimiters_and_line_breaks(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'text,label\n"He said ""no"", then\nleft\r\n",x\n é😀 ,y\n')
    assert read(path, "text") == [('He said "no", then\nleft\r\n',), (" é😀 ",)]


def test_a_text_longer_than_the_csv_module_allows_by_default_is_read(tmp_path: Path) -> None:
    assert read(write(tmp_path, "a.csv", f"text,label\n{'x' * 200_000},y\n"), "text") == [("x" * 200_000,)]


def test_a_field_that_an_object_lacks_is_null(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": "a"}\n{"label": 1, "text": null}\n')
    assert open_file(path).columns == ("text", "label")
    assert read(path, "text", "label") == [("a", None), (None, 1)]


@pytest.mark.parametrize("tags", [["x", "y"], [{"x": 1}]])
def test_a_json_object_is_one_row_unless_a_list_of_objects_is_its_only_list(tmp_path: Path, tags: list[Any]) -> None:
    path = write(
        tmp_path, "a.json", json.dumps({"text": "a", "tags": tags, "more": [{"text": "b"}] if tags != ["x", "y"] else 1})
    )
    assert read(path, "text", "tags") == [("a", tags)]


ROWS = 2 * BATCH_ROWS + 3


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "json"])
def test_rows_come_in_order_and_in_batches(tmp_path: Path, suffix: str) -> None:
    texts = [f"text {number}" for number in range(ROWS)]
    path = tmp_path / f"a.{suffix}"
    match suffix:
        case "csv":
            write(tmp_path, path.name, "text,label\n" + "".join(f"{text},x\n" for text in texts))
        case "parquet":
            pq.write_table(pa.table({"text": texts}), path)
        case "json":
            write(tmp_path, path.name, json.dumps([{"text": text} for text in texts]))
        case _:
            write(tmp_path, path.name, "".join(f'{{"text": "{text}"}}\n' for text in texts))
    batches = [batch["text"] for batch in open_file(path).read(["text"])]
    assert [len(batch) for batch in batches] == [BATCH_ROWS, BATCH_ROWS, 3]
    assert [text for batch in batches for text in batch] == texts


@pytest.mark.parametrize(
    ("name", "header", "row", "fault", "line"),
    [("a.csv", "text,label\n", "a,b\n", "a,b,c\n", ROWS + 2), ("a.jsonl", "", '{"text": "a"}\n', "{\n", ROWS + 1)],
)
def test_a_fault_far_down_shows_only_when_the_stream_gets_there(
    tmp_path: Path, name: str, header: str, row: str, fault: str, line: int
) -> None:
    batches = open_file(write(tmp_path, name, header + row * ROWS + fault)).read(["text"])
    assert len(next(batches)["text"]) == len(next(batches)["text"]) == BATCH_ROWS
    with pytest.raises(DataError, match=f"line {line}: "):
        next(batches)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("a.csv", "", "is empty; check data.source", id="empty"),
        pytest.param("a.md", "x", "unknown form; use one of .csv, .tsv, .json", id="unknown suffix"),
        pytest.param("a.txt", "a\n\0\n", "line 2: holds a NUL byte; remove it", id="NUL in text"),
        pytest.param("a.csv.gz", "x", "unknown form", id="compressed"),
        pytest.param("a.csv", "text;label\na;b\n", "column 'text;label', which looks separated by ';'; separate", id="semicolon"),
        pytest.param("a.csv", "text\tlabel\na\tb\n", r"looks separated by '\\t'", id="tabs in csv"),
        pytest.param("a.tsv", "text,label\na,b\n", r"looks separated by ','; separate its fields by '\\t'", id="commas in tsv"),
        pytest.param("a.csv", "text,label,text\na,b,c\n", "more than one column 'text'; rename", id="repeated column"),
        pytest.param(
            "a.csv", "text,label\na,b\nc\n", "line 3: 1 fields, but the header has 2; put .* in double quotes", id="short"
        ),
        pytest.param(
            "a.csv", 'text,label\n"a\nb",c\n\nd,e,f\n', "line 5: 3 fields", id="ragged after a long row and a blank line"
        ),
        pytest.param("a.csv", 'text,label\na,b\n"c,d\n', "line 3: .*; check its quotes", id="quote never closed"),
        pytest.param("a.csv", 'text,label\na,b\n"c"x,d\n', "line 3: .*; check its quotes", id="text after a quote"),
        pytest.param("a.csv", b"text,label\na,b\ncaf\xe9,c\n", r"line 3: byte b'\\xe9' is not UTF-8; save", id="Latin-1"),
        pytest.param("a.csv", b"t\xe9xt,label\n", "line 1: .* is not UTF-8", id="Latin-1 header"),
        pytest.param("a.csv", "text,label\na,b\n".encode("utf-16"), "line 1: .* is not UTF-8", id="UTF-16"),
        pytest.param("a.csv", "text,label\na,b\nc\0,d\n", "line 3: holds a NUL byte; remove", id="NUL in csv"),
        pytest.param("a.jsonl", '{"text": "a"}\n{"text": "b}\n', r"line 2: not JSON \(", id="broken line"),
        pytest.param("a.jsonl", '{"text": "a"}\n\n["b"]\n', r"line 3: \['b'\] is not an object", id="a list as a line"),
        pytest.param("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "line 2: .* is not UTF-8", id="not UTF-8 in json lines"),
        pytest.param("a.jsonl", '{"text": "a"}\n{"text": "\0"}\n', "line 2: holds a NUL byte", id="NUL in json lines"),
        pytest.param("a.jsonl", "[" * 100_000, r"line 1: not JSON \(", id="nested without end"),
        pytest.param("a.json", '[{"text": "a"}, {"text":', r"is not JSON \(", id="truncated json"),
        pytest.param("a.json", '[\n{"text": "a\0"}]', "line 2: holds a NUL byte", id="NUL in json"),
        pytest.param("a.json", b'[\n\n{"text": "\xff"}]', "line 3: .* is not UTF-8", id="not UTF-8 in json"),
        pytest.param("a.json", '[{"text": "a"}, 7]', "row 2: 7 is not an object", id="a number as a row"),
        pytest.param("a.json", '"text"', "is not a list of objects", id="a string"),
        pytest.param("a.parquet", b"PAR1 but no more", "is not Parquet or is damaged", id="not Parquet"),
    ],
)
def test_a_fault_is_one_line_with_the_file_and_the_place(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(DataError, match=message) as caught:
        read(path, *open_file(path).columns)
    assert repr(str(path)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nope\.csv' is not there; check data\.source"):
        open_file(tmp_path / "nope.csv")


def test_damage_inside_a_parquet_file_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"text {number}" for number in range(500)]}), path)
    content = bytearray(path.read_bytes())
    content[8:60] = b"\xaa" * 52
    part = open_file(write(tmp_path, "b.parquet", bytes(content)))
    with pytest.raises(DataError, match=r"b\.parquet' is damaged"):
        list(part.read(["text"]))


def test_parquet_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    offsets = pa.py_buffer(b"\0\0\0\0\2\0\0\0")
    pq.write_table(pa.table({"text": pa.StringArray.from_buffers(1, offsets, pa.py_buffer(b"\xff\xfe"))}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="not UTF-8"):
        read(tmp_path / "a.parquet", "text")


def test_parquet_with_a_repeated_column_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="more than one column 'text'"):
        open_file(tmp_path / "a.parquet")


def test_plain_text_is_a_row_a_line_blank_ones_too(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\ntwo ä\n".encode())
    part = open_file(path)
    assert (part.columns, part.lines) == (("text",), True)
    assert [value for batch in part.read(["text"]) for value in batch["text"]] == ["one", "", "two ä"]
