"""Tests of `python -m flows`: what it says of wrong input, and that nothing is left behind."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from blocks.s3_store import S3Store
from flows.__main__ import main
from tests.helpers import make_encoder, topic_rows, write_csv
from tests.s3 import ACCESS_KEY, BUCKET, SECRET_KEY

ROWS = topic_rows(60)


@pytest.fixture
def refuse_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a wrong input gets past preflight: nothing may be started for it."""

    def launch(*_: object, **__: object) -> None:
        pytest.fail("the flow was started")

    monkeypatch.setattr("flows.launch.launch", launch)


def refused(
    capsys: pytest.CaptureFixture[str], store: Path, arguments: list[str], *, kind: str = "text-classification", code: int = 2
) -> str:
    """Run a command that must be refused and return its one line of error."""
    assert main(["run", kind, "--store", str(store), *arguments]) == code
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not store.exists(), "something was left in the store"
    return error


def data_file(name: str, content: bytes) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / name).write_bytes(content)
        return ["--data.source", str(folder / name)]

    return make


def rows_file(rows: list[dict[str, object]], *flags: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        path = folder / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return ["--data.source", str(path), *flags]

    return make


def splits_folder(train: list[dict[str, str]], test: list[dict[str, str]]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        for split, rows in (("train", train), ("test", test)):
            write_csv(folder / "data" / f"{split}.csv", rows)
        return ["--data.source", str(folder / "data")]

    return make


def csv_text(rows: list[dict[str, str]], *extra: str) -> bytes:
    return "\n".join(["text,label", *(f"{row['text']},{row['label']}" for row in rows), *extra, ""]).encode()


DATA_FAULTS = {
    "missing file": (lambda folder: ["--data.source", str(folder / "none.csv")], ["none.csv", "data.source"]),
    "empty file": (data_file("rows.csv", b""), ["rows.csv", "is empty"]),
    "header only": (data_file("rows.csv", b"text,label\n"), ["rows.csv", "no rows"]),
    "wrong delimiter": (data_file("rows.csv", b"text;label\na b;x\nc d;y\n"), ["rows.csv", "';'", "','"]),
    "ragged row": (data_file("rows.csv", csv_text(ROWS[:5], "a,b,c")), ["rows.csv", "line 7", "3 fields"]),
    "not UTF-8": (data_file("rows.csv", csv_text(ROWS[:3]) + b"caf\xe9,sport\n"), ["rows.csv", "line 5", "UTF-8"]),
    "NUL byte": (data_file("rows.csv", csv_text(ROWS[:3]) + b"a\x00b,sport\n"), ["rows.csv", "line 5", "NUL"]),
    "missing column": (data_file("rows.csv", b"txt,label\na b,x\n"), ["'text'", "'txt'", "data.text_column"]),
    "text of a wrong type": (rows_file([*ROWS[:9], {"text": 7, "label": "sport"}]), ["row 10", "'text'", "7", "int"]),
    "numbers for texts": (data_file("rows.csv", b"text,label\n1,x\n2,y\n"), ["'text'", "numbers", "data.text_column"]),
    "label of a wrong type": (rows_file([{"text": "a b", "label": [1]}]), ["row 1", "'label'", "[1]"]),
    "all texts empty": (data_file("rows.csv", b"text,label\n,x\n ,y\n"), ["'text'", "empty", "data.text_column"]),
    "null label": (rows_file([*ROWS[:4], {"text": "a b", "label": None}]), ["row 5", "'label'", "None", "missing"]),
    "one class only": (rows_file([row | {"label": "sport"} for row in ROWS]), ["one class", "'sport'"]),
    "test label unseen in train": (
        splits_folder(topic_rows(60, topics=("sport", "market")), topic_rows(9, seed=1)),
        ["'space'", "'test'", "not in split 'train'"],
    ),
    "fewer rows than classes": (
        rows_file([row | {"label": f"class {number}"} for number, row in enumerate(ROWS)]),
        ["rows but 60 classes", "data.label_column"],
    ),
    "refused duplicates": (splits_folder(ROWS, ROWS[:5]), []),
}


@pytest.mark.usefixtures("refuse_to_start")
@pytest.mark.parametrize("fault", [name for name in DATA_FAULTS if name != "refused duplicates"])
def test_wrong_data_is_refused_in_one_line(fault: str, tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, words = DATA_FAULTS[fault]
    error = refused(capsys, tmp_path / "store", [*make(tmp_path), "--model.name", str(encoder)])
    for word in words:
        assert word in error


ASKED = [
    {"question": f"Which word is {n}?", "context": f"Here is w{n}.", "answers": {"text": [f"w{n}"], "answer_start": [8]}}
    for n in range(40)
]
TOLD = [
    {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"It is {n}"}]} for n in range(40)
]
KIND_FAULTS = {
    "answer elsewhere": (
        "question-answering",
        rows_file([*ASKED[:8], ASKED[8] | {"answers": {"text": ["w8"], "answer_start": [7]}}]),
        ["rows.jsonl", "row 9", "'answers'", "'w8'", "7", "data.answers_column"],
    ),
    "no context": (
        "question-answering",
        rows_file([*ASKED[:2], ASKED[2] | {"context": " "}]),
        ["rows.jsonl", "row 3", "'context'", "nothing to answer from", "data.context_column"],
    ),
    "empty summary": (
        "summarization",
        rows_file([{"text": f"A text {n}", "summary": " " if n == 5 else f"{n}"} for n in range(40)]),
        ["rows.jsonl", "row 6", "'summary'", "missing", "data.summary_column"],
    ),
    "nobody to learn from": (
        "causal-lm",
        rows_file([*TOLD[:3], {"messages": TOLD[3]["messages"][:1]}], "--data.messages_column", "messages"),
        ["rows.jsonl", "row 4", "'messages'", "'assistant'", "data.messages_column"],
    ),
    "labels of a wrong sort": (
        "text-classification",
        rows_file([{"text": "a b", "label": "high"}], "--problem", "regression"),
        ["rows.jsonl", "row 1", "'label'", "'high'", "data.label_column"],
    ),
}


@pytest.mark.usefixtures("refuse_to_start")
@pytest.mark.parametrize("fault", KIND_FAULTS)
def test_what_a_kind_cannot_use_is_refused_in_one_line(
    fault: str, tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, make, words = KIND_FAULTS[fault]
    error = refused(capsys, tmp_path / "store", [*make(tmp_path), "--model.name", str(encoder)], kind=kind)
    for word in words:
        assert word in error


@pytest.mark.usefixtures("refuse_to_start")
def test_shared_rows_are_refused_where_the_config_says_so(
    tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, _ = DATA_FAULTS["refused duplicates"]
    flags = [*make(tmp_path), "--model.name", str(encoder), "--data.duplicates", "refuse"]
    assert "data.duplicates" in refused(capsys, tmp_path / "store", flags)


@pytest.mark.usefixtures("refuse_to_start")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"training": {"epoch": 3}}, ["'training.epoch'", "did you mean 'epochs'"]),
        ({"trainning": {}}, ["'trainning'", "did you mean 'training'"]),
        ({"training": {"epochs": "many"}}, ["'training.epochs'", "'many'", "integer"]),
        ({"training": {"learning_rate": 5}}, ["'training.learning_rate'", "5", "less than or equal to 1"]),
        ({"training": {"epochs": 0}}, ["'training.epochs'", "greater than or equal to 1"]),
        ({"data": {"duplicates": "keep"}}, ["'data.duplicates'", "'keep'", "'drop'"]),
        ({"data": {"text_column": "label"}}, ["different columns"]),
        ({"model": None}, ["'model'"]),
    ],
)
def test_a_wrong_config_names_the_file_the_field_and_the_value(
    content: dict[str, object], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    error = refused(capsys, tmp_path / "store", ["--config", str(path)])
    for word in [*words, "config.yaml"]:
        assert word in error


@pytest.mark.usefixtures("refuse_to_start")
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--training.epochs", "many"], ["'training.epochs'", "'many'", "command line"]),
        (["--training.epoch", "2"], ["--training.epoch"]),
        (["--config", "ag-news-brt"], ["'ag-news-brt'", "did you mean 'ag-news-bert'"]),
        (["--data.source", "gs://bucket/rows.csv"], ["data.source", "'gs'", "not supported"]),
        (["--data.source", "s3://key:secret@bucket/rows.csv"], ["data.source", "credentials"]),
        (["--data.test", "s3://bucket/rows.csv"], ["data.test", "data.source is not"]),
        (["--gpu_deployment", "name"], ["'gpu_deployment'", "'name'"]),
    ],
)
def test_a_wrong_flag_is_refused(flags: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, tmp_path / "store", flags)
    for word in words:
        assert word in error


@pytest.mark.usefixtures("refuse_to_start")
@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("s3://{bucket}/{prefix}/none.csv", 2, ["none.csv", "is not there", "data.source"]),
        ("s3://{bucket}/{prefix}/notes", 2, ["/notes'", "holds no file that ends in", "data.source"]),
        ("s3://no-such-bucket/rows.csv", 2, ["'no-such-bucket' does not exist", "data.source"]),
        ("s3://{bucket}/{prefix}/notes/a.md", 2, ["a.md", "unknown form"]),
        ("s3://{bucket}/{prefix}/rows.csv", 1, ["does not answer"]),
    ],
)
def test_a_wrong_source_in_s3_is_refused(
    source: str,
    code: int,
    words: list[str],
    s3_store: S3Store,
    tmp_path: Path,
    encoder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    s3_store.objects.put("notes/a.md", b"x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    # Port 9 of this machine: nothing listens there.
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(s3_store.endpoint_url) if code == 2 else "http://127.0.0.1:9")
    flags = ["--data.source", source.format(bucket=BUCKET, prefix=s3_store.prefix), "--model.name", str(encoder)]
    error = refused(capsys, tmp_path / "store", flags, code=code)
    for word in words:
        assert word in error


def _without_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def _with_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.usefixtures("refuse_to_start")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without_tokenizer, ["no tokenizer"]),
        (_with_pickle, ["pickle", "model.allow_pickle"]),
        (lambda folder: (folder / "model.safetensors").unlink(), ["no weights"]),
        (lambda folder: (folder / "config.json").unlink(), ["config.json"]),
        (lambda folder: folder.rename(folder.with_name("elsewhere")), ["not there", "model.name"]),
    ],
)
def test_a_wrong_model_folder_is_refused(
    change: Callable[[Path], None], words: list[str], tmp_path: Path, topics_csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_encoder(tmp_path / "model")
    change(folder)
    error = refused(capsys, tmp_path / "store", ["--data.source", str(topics_csv), "--model.name", str(folder)])
    for word in [*words, str(folder)]:
        assert word in error


@pytest.mark.usefixtures("refuse_to_start")
def test_a_store_that_cannot_be_written_is_refused(
    tmp_path: Path, topics_csv: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    flags = ["--data.source", str(topics_csv), "--model.name", str(encoder)]
    error = refused(capsys, tmp_path / "file" / "store", flags)
    assert "cannot be written" in error


def test_an_unknown_kind_or_command_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "text-clasification"]) == 2
    assert "did you mean 'text-classification'" in capsys.readouterr().err
    assert main(["rum"]) == 2
    assert "'rum'" in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_an_error_and_no_other_is_used(tmp_path: Path, topics_csv: Path, encoder: Path) -> None:
    command = [sys.executable, "-m", "flows", "run", "text-classification", "--store", str(tmp_path / "store")]
    command += ["--data.source", str(topics_csv), "--model.name", str(encoder)]
    # Port 9 of this machine: nothing listens there.
    ended = subprocess.run(
        command,
        env=_environment(tmp_path, PREFECT_API_URL="http://127.0.0.1:9/api"),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: PREFECT_API_URL is 'http://127.0.0.1:9/api', but no Prefect server answers there")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "store").exists()


def test_help_names_every_setting_with_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "text-classification", "--help"])
    assert ended.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in (
        "--training.learning_rate",
        "Peak learning rate of AdamW",
        "--data.text_column",
        "--model.allow_pickle",
        "--store",
    ):
        assert words in out


def test_list_names_kinds_and_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "text-classification" in out
    assert "ag-news-bert" in out


def _environment(home: Path, **extra: str) -> dict[str, str]:
    import os

    return {**os.environ, "PREFECT_HOME": str(home / "prefect"), **extra}
