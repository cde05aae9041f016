"""From a file to rows to predict: every form of file, columns by any name, no targets, and faults that name their place."""

import gc
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from blocks.artifact_store import LocalStore
from tasks.data.files import Batch, open_file
from tasks.errors import ConfigError, DataError, InputError
from tasks.kinds import load_kind
from tasks.prediction.request import Columns
from tasks.prediction.rows import make_reader, open_source, shards, survey
from tasks.trained import Trained
from tests.helpers import write_csv

ROWS = [{"id": f"r{number}", "text": f"text {number}", "label": "sport"} for number in range(5)]


def trained(kind: str = "text-classification", **settings: Any) -> Trained:
    return Trained(kind, load_kind(kind).config_class.model_validate(settings), ["sport", "market"], Path("none"))


def read(path: Path, model: Trained | None = None, **columns: str) -> list[dict[str, Any]]:
    """Return the rows of a file as a model is given them, after the survey."""
    reader, part = make_reader(model or trained(), Columns(**columns), open_file(path, path.name, setting="input"))
    survey(reader, part)
    batches = list(reader.batches(part))
    return [dict(zip(batch, values, strict=True)) for batch in batches for values in zip(*batch.values(), strict=True)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the form that the file's name says."""
    match path.suffix:
        case ".csv":
            write_csv(path, rows)
        case ".tsv":
            pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case _:
            pd.DataFrame(rows).to_parquet(path, index=False)
    return path


@pytest.mark.parametrize("form", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("labels", [True, False])
def test_every_form_of_file_gives_the_same_rows(form: str, labels: bool, tmp_path: Path) -> None:
    rows = ROWS if labels else [{"id": row["id"], "text": row["text"]} for row in ROWS]
    found = read(write(tmp_path / f"rows{form}", rows), id_column="id")
    assert found == [{"text": row["text"], "label": 0, "id": row["id"]} for row in ROWS]


def test_ids_are_positions_unless_a_column_has_them(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", ROWS)
    assert [row["id"] for row in read(path)] == ["0", "1", "2", "3", "4"]
    assert [row["id"] for row in read(path, id_column="label")] == ["sport"] * 5
    # As in training; but an input of later need not have them.
    named = trained(data={"id_column": "id"})
    assert [row["id"] for row in read(path, named)] == [row["id"] for row in ROWS]
    bare = write(tmp_path / "bare.csv", [{"text": "a text"}])
    assert [row["id"] for row in read(bare, named)] == ["0"]
    with pytest.raises(DataError, match=r"Column 'id' is not in 'bare\.csv'; it has 'text'\. Set id_column\."):
        read(bare, named, id_column="id")


def test_columns_may_have_other_names_than_in_training(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", [{"body": "one", "more": "two"}])
    model = trained(data={"text_column": "text", "pair_column": "pair"})
    (row,) = read(path, model, text_column="body", pair_column="more")
    assert (row["text"], row["pair"]) == ("one", "two")
    # Nobody reads the label, so its name is free.
    (row,) = read(write(tmp_path / "odd.csv", [{"label": "one"}]), text_column="label")
    assert row["text"] == "one"


QUESTION = {"question": "Who?", "context": "Ada wrote it."}
MESSAGES = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]


@pytest.mark.parametrize(
    ("kind", "settings", "row", "expected"),
    [
        ("question-answering", {}, QUESTION, {**QUESTION, "answers": "[]", "title": ""}),
        ("summarization", {}, {"text": "long"}, {"text": "long", "summary": ""}),
        ("causal-lm", {}, {"text": "long"}, {"text": "long"}),
        ("masked-lm", {}, {"text": "long"}, {"text": "long"}),
        (
            "causal-lm",
            {"data": {"prompt_column": "p", "completion_column": "c"}},
            {"p": "a ", "c": "b"},
            {"prompt": "a ", "completion": "b"},
        ),
        ("causal-lm", {"data": {"messages_column": "m"}}, {"m": MESSAGES}, {"messages": json.dumps(MESSAGES)}),
        ("text-classification", {"problem": "multi_label"}, {"text": "a b"}, {"text": "a b", "label": []}),
        ("text-classification", {"problem": "regression"}, {"text": "a b"}, {"text": "a b", "label": 0.0}),
    ],
)
def test_every_kind_reads_rows_without_targets(
    kind: str, settings: dict[str, Any], row: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.jsonl", [row, row])
    assert read(path, trained(kind, **settings)) == [{**expected, "id": "0"}, {**expected, "id": "1"}]


def test_articles_of_squad_are_read_without_answers(tmp_path: Path) -> None:
    article = {"title": "t", "paragraphs": [{"context": "Ada wrote it.", "qas": [{"id": "q1", "question": "Who?"}]}]}
    (tmp_path / "squad.json").write_text(json.dumps({"version": "1", "data": [article]}))
    (row,) = read(tmp_path / "squad.json", trained("question-answering"), id_column="id")
    assert (row["id"], row["question"], row["context"]) == ("q1", "Who?", "Ada wrote it.")


Make = Callable[[Path], Path]


def raw(name: str, content: bytes) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def of_rows(*rows: dict[str, Any]) -> Make:
    return lambda folder: write(folder / "rows.jsonl", list(rows))


@pytest.mark.parametrize(
    ("make", "columns", "words"),
    [
        (raw("rows.csv", b""), {}, ["'rows.csv' is empty; check input."]),
        (raw("rows.csv", b"text\n"), {}, ["'rows.csv' has a header but no rows; check input."]),
        (raw("rows.xml", b"<a/>"), {}, ["'rows.xml' is of an unknown form"]),
        (raw("rows.csv", b"text,a\nx,y\nz\n"), {}, ["'rows.csv', line 3", "1 fields, but the header has 2"]),
        (raw("rows.csv", b"text\ncaf\xe9\n"), {}, ["'rows.csv', line 2", "not UTF-8"]),
        (raw("rows.jsonl", b'{"text": "a"}\n{"text"\n'), {}, ["'rows.jsonl', line 2: not JSON"]),
        (raw("rows.parquet", b"PAR1xxxx"), {}, ["'rows.parquet' is not Parquet or is damaged"]),
        (raw("rows.csv", b"txt\nx\n"), {}, ["Column 'text' is not in 'rows.csv'; it has 'txt'. Set text_column."]),
        (raw("rows.csv", b"text\n \n\"\"\n"), {}, ["All texts of 'rows.csv' are empty in column 'text'. Set text_column."]),
        (of_rows({"text": "a"}, {"text": 7}), {}, ["'rows.jsonl', row 2: column 'text' is 7, which is int", "set text_column."]),
        (of_rows({"text": "a", "id": None}), {"id_column": "id"}, ["row 1: column 'id' is None", "set id_column."]),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_place_and_remedy(
    make: Make, columns: dict[str, str], words: list[str], tmp_path: Path
) -> None:
    path = make(tmp_path)
    with pytest.raises(DataError) as caught:
        read(path, **columns)
    for word in words:
        assert word in str(caught.value)
    assert "data." not in str(caught.value)


def test_a_context_that_is_empty_is_a_fault_and_an_answer_that_is_wrong_is_none(tmp_path: Path) -> None:
    model = trained("question-answering")
    with pytest.raises(
        DataError, match=r"row 2: column 'context' is ' ', so there is nothing to answer from; .* set context_column"
    ):
        read(write(tmp_path / "rows.jsonl", [QUESTION, {**QUESTION, "context": " "}]), model)
    assert len(read(write(tmp_path / "rows.jsonl", [{**QUESTION, "answers": "nonsense"}]), model)) == 1


@pytest.mark.parametrize(
    ("kind", "settings", "columns", "words"),
    [
        ("text-classification", {}, {"question_column": "q"}, ["question_column is set", "has none", "'text_column'"]),
        ("text-classification", {}, {"pair_column": "text"}, ["pair_column", "trained on other columns", "'text_column'"]),
        ("causal-lm", {}, {"prompt_column": "p"}, ["prompt_column", "trained on other columns", "'text_column'"]),
        ("causal-lm", {}, {"prompt_column": "p", "completion_column": "c"}, ["trained on other columns"]),
        ("causal-lm", {"data": {"messages_column": "m"}}, {"text_column": "t"}, ["'messages_column'"]),
    ],
)
def test_a_column_that_the_model_does_not_read_is_refused(
    kind: str, settings: dict[str, Any], columns: dict[str, str], words: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.csv", [{"text": "a", "p": "b", "c": "d", "t": "e"}])
    with pytest.raises(ConfigError) as caught:
        read(path, trained(kind, **settings), **columns)
    for word in words:
        assert word in str(caught.value)


def test_the_survey_counts_and_tells_numbers_from_texts(tmp_path: Path) -> None:
    def found(rows: list[dict[str, Any]], limit: int | None = None) -> Any:
        part = open_file(write(tmp_path / "rows.csv", rows))
        return survey(*make_reader(trained(), Columns(), part), limit=limit)

    assert (found(ROWS).rows, found(ROWS).only_numbers) == (5, False)
    assert found([{"text": "7"}, {"text": ""}]).only_numbers
    many = [{"text": f"text {number}"} for number in range(2500)]
    assert found(many).rows == 2500
    assert found(many, limit=1500).rows == 2000
    # What comes after the limit is looked at later.
    assert found([*[{"text": ""}] * 1500, {"text": "a"}], limit=1000).rows == 1000


@pytest.mark.parametrize("size", [1, 3, 7, 10, 100])
def test_shards_have_fixed_borders_however_rows_come(size: int) -> None:
    def batches(length: int) -> Iterator[Batch]:
        for start in range(0, 25, length):
            numbers = list(range(start, min(25, start + length)))
            yield {"id": [str(number) for number in numbers], "text": numbers}

    expected = [list(range(start, min(25, start + size))) for start in range(0, 25, size)]
    for length in (1, 4, 10, 25):
        found = list(shards(batches(length), size))
        assert [shard["text"] for shard in found] == expected
        assert [shard["id"] for shard in found] == [[str(number) for number in shard] for shard in expected]
    assert list(shards(iter([]), size)) == []


def test_a_source_is_told_from_another_by_its_bytes_and_form(tmp_path: Path) -> None:
    def identity(path: Path) -> str:
        return open_source(str(path), LocalStore(tmp_path), tmp_path)[1]

    texts = [{"text": row["text"]} for row in ROWS]
    one = write(tmp_path / "one.csv", texts)
    same = write(tmp_path / "same.csv", texts)
    tabs = tmp_path / "same.tsv"
    tabs.write_bytes(one.read_bytes())
    other = write(tmp_path / "other.csv", texts[:4])
    assert identity(one) == identity(same)
    assert len({identity(path) for path in (one, tabs, other)}) == 3
    with pytest.raises(InputError, match=r"none\.csv' is not there; check input\."):
        identity(tmp_path / "none.csv")


def test_ten_times_the_rows_take_no_more_memory(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = write_csv(tmp_path / "rows.csv", ({"text": f"some words of row {number:06}"} for number in range(count)))
        reader, part = make_reader(trained(), Columns(), open_file(path))
        gc.collect()  # else objects kept for reuse hide what is allocated
        tracemalloc.start()
        assert survey(reader, part).rows == count
        assert sum(len(shard["id"]) for shard in shards(reader.batches(part), 1000)) == count
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    def least(count: int) -> int:
        # Threads that other tests have left, such as Prefect's loggers, can only add to a peak: all of the process is counted.
        return min(peak(count) for _ in range(3))

    peak(2_000)  # what only a first run allocates: imports, compiled patterns, caches
    assert least(20_000) < 1.1 * least(2_000)
