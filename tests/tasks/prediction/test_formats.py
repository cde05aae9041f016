"""How predictions are written: the same rows in every form, and no formula for a spreadsheet."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.prediction.formats import FORMS, harmless, write_rows

SCHEMA = pa.schema(
    [("id", pa.string()), ("prediction", pa.string()), ("predictions", pa.list_(pa.string())), ("probability", pa.float32())]
)
ROWS = [
    ("0", "=1+1", ["a", "b"], -0.5),
    ("-7", 'say "no",\nplease', ["=a", "b"], 0.25),
    ("+x", "", [], None),
    ("@me", None, None, 1.0),
]


def tables() -> list[pa.Table]:
    columns = list(zip(*ROWS, strict=True))
    whole = pa.table([pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
    return [whole.slice(0, 3), whole.slice(3)]


def written(folder: Path, form: str) -> Path:
    path = folder / f"out{form}"
    write_rows(path, form, SCHEMA, tables(), "; ")
    return path


@pytest.mark.parametrize("form", [".csv", ".tsv"])
def test_texts_are_no_formulas_and_numbers_are_numbers(form: str, tmp_path: Path) -> None:
    with written(tmp_path, form).open(newline="", encoding="utf-8") as stream:
        lines = list(csv.reader(stream, delimiter="\t" if form == ".tsv" else ","))
    assert lines == [
        ["id", "prediction", "predictions", "probability"],
        ["0", "'=1+1", "a; b", "-0.5"],
        ["-7", 'say "no",\nplease', "'=a; b", "0.25"],
        ["'+x", "", "", ""],
        ["'@me", "", "", "1.0"],
    ]


def test_json_lines_and_parquet_have_texts_as_they_are(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in written(tmp_path, ".jsonl").read_text(encoding="utf-8").splitlines()]
    table = pq.read_table(written(tmp_path, ".parquet"))
    assert table.schema == SCHEMA
    assert lines == table.to_pylist() == [dict(zip(SCHEMA.names, row, strict=True)) for row in ROWS]


def test_json_lines_hold_no_number_that_json_lacks(tmp_path: Path) -> None:
    path, schema = tmp_path / "out.jsonl", pa.schema([("prediction", pa.float64())])
    write_rows(path, ".jsonl", schema, [pa.table({"prediction": [math.nan, math.inf, 2.0]}, schema=schema)], ";")

    def refuse(word: str) -> Any:
        pytest.fail(f"{word} is not JSON")

    found = [json.loads(line, parse_constant=refuse)["prediction"] for line in path.read_text().splitlines()]
    assert found == [None, None, 2.0]


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_every_sign_that_begins_a_formula_is_kept_from_it(sign: str) -> None:
    assert harmless(f"{sign}cmd|' /C calc'!A0") == f"'{sign}cmd|' /C calc'!A0"
    assert harmless(f"a{sign}") == f"a{sign}"


@pytest.mark.parametrize("text", ["", "a", "12", "-12", "+1.5e-3", "-.5", "'=1"])
def test_other_texts_and_numbers_are_left_alone(text: str) -> None:
    assert harmless(text) == text


@pytest.mark.parametrize("text", ["-1+1", "+", "-", "-1 2", "=1", "-1\n", "--1"])
def test_what_only_looks_like_a_number_is_not(text: str) -> None:
    assert harmless(text) == f"'{text}"


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    for form in FORMS:
        assert written(tmp_path, form).read_bytes() == written(tmp_path / "again", form).read_bytes()
