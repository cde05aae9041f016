"""Tests of `python -m flows predict`: what it says of wrong input, and that a kill costs nothing that was finished."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from blocks.artifact_store import LocalStore
from blocks.sharded_output import open_output
from flows.__main__ import main
from tasks.prediction import step
from tests.flows.test_inference import InPlace, directly
from tests.helpers import TOPICS, topic_rows, write_csv
from tests.predicting import crown, publish_model
from tests.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

SETTINGS = {"training": {"max_length": 32}}
SHARD_ROWS, SHARDS = 50, 60


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    """Return a folder with a store that has a champion, and a file of rows."""
    root = tmp_path_factory.mktemp("predict")
    store = LocalStore(root / "store")
    crown(store, "topics", publish_model(store, root, encoder, "text-classification", SETTINGS, labels=list(TOPICS)))
    write_csv(root / "rows.csv", [{"text": row["text"]} for row in topic_rows(SHARD_ROWS * SHARDS - 7)])
    return root


# What is refused


def csv_file(content: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / "given.csv").write_bytes(content)
        return str(folder / "given.csv")

    return make


@pytest.mark.parametrize(
    ("name", "make", "flags", "words"),
    [
        ("topic", None, [], ["no model 'topic' with a champion", "did you mean 'topics'"]),
        ("topics", None, ["--run", "none"], ["no run 'none'"]),
        ("topics", None, ["--store", "/none/store"], ["Store '/none/store' is not there"]),
        ("topics", lambda folder: str(folder / "none.csv"), [], ["none.csv' is not there; check input"]),
        ("topics", csv_file(b""), [], ["given.csv' is empty; check input"]),
        ("topics", csv_file(b"txt\na\n"), [], ["Column 'text' is not in", "Set text_column."]),
        ("topics", csv_file(b"text,a\nb,c\nd\n"), [], ["line 3", "1 fields, but the header has 2"]),
        ("topics", csv_file(b"text\n\" \"\n"), [], ["All texts", "are empty in column 'text'. Set text_column."]),
        ("topics", None, ["--text_column", "body"], ["Column 'body' is not in", "Set text_column."]),
        ("topics", None, ["--question_column", "text"], ["question_column is set", "has none"]),
        ("topics", None, ["--id_column", "id"], ["Column 'id' is not in", "Set id_column."]),
        ("topics", None, ["--shard_rows", "0"], ["--shard_rows", "'0'", "is not a number of rows"]),
        ("topics", None, ["--device", "tpu"], ["--device", "'tpu'"]),
        ("topics", None, ["--what"], ["--what"]),
        ("topics", lambda folder: "gs://bucket/rows.csv", [], ["input is neither a file nor an address s3://"]),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_exit_code_2_before_anything_starts(
    name: str,
    make: Callable[[Path], str] | None,
    flags: list[str],
    words: list[str],
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.launch.prefect_api", lambda **_: pytest.fail("the flow was started"))
    source = make(tmp_path) if make else str(root / "rows.csv")
    assert main(["predict", name, source, str(tmp_path / "out.csv"), "--store", str(root / "store"), *flags]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    for word in ["error: ", *words]:
        assert word in error
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("{here}/out.txt", ["of an unknown form", ".csv, .tsv, .jsonl, .parquet"]),
        ("{here}", ["of an unknown form"]),
        ("{here}/folder.csv", ["is a folder"]),
        ("{here}/rows.csv/out.csv", ["cannot be written", "rows.csv"]),
        ("{here}/../{name}/rows.csv", ["is the input"]),
        ("s3://bucket.csv", ["output is neither a file nor an address s3://bucket/key"]),
        ("s3://key:hush@bucket/out.csv", ["output seems to hold credentials"]),
        ("ftp://host/out.csv", ["output is neither a file nor an address"]),
    ],
)
def test_a_wrong_output_is_refused(
    output: str, words: list[str], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.launch.prefect_api", lambda **_: pytest.fail("the flow was started"))
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "rows.csv").write_text("text\na b\n")
    target = output.format(here=tmp_path, name=tmp_path.name)
    assert main(["predict", "topics", str(tmp_path / "rows.csv"), target, "--store", str(root / "store")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "hush" not in error
    for word in words:
        assert word in error


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--help"])
    assert ended.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    for word in (
        "NAME INPUT OUTPUT",
        "--run",
        "--store",
        "--text_column",
        "--id_column",
        "--shard_rows",
        "--precision",
        "--json",
    ):
        assert word in out


# Runs of the command


def arguments(output: str) -> list[str]:
    flags = ["--store", "store", "--shard_rows", str(SHARD_ROWS), "--precision", "fp32", "--json"]
    return ["predict", "topics", "rows.csv", output, *flags]


def start(root: Path, output: str, api: str, *extra: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "flows", *arguments(output), *extra],
        cwd=root,
        env={**os.environ, "PREFECT_API_URL": api, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    record: dict[str, Any] = json.loads(out.splitlines()[-1])
    return record


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> bytes:
    """Return the file of predictions that nothing disturbs."""
    given = {"name": "topics", "input": str(root / "rows.csv"), "output": str(root / "whole.csv"), "store": str(root / "store")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "ComputeProcess", InPlace)
        patch.setattr(InPlace, "fails", [], raising=False)
        directly(**given, shard_rows=SHARD_ROWS, precision="fp32")
    return (root / "whole.csv").read_bytes()


def wait(process: "subprocess.Popen[str]", count: int, finished: Callable[[], int]) -> None:
    """Wait until so many shards are finished, but not all."""
    deadline = time.monotonic() + 120
    while finished() < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill(process: "subprocess.Popen[str]") -> None:
    """Kill a command with -9; its compute process ends with it."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


@pytest.mark.usefixtures("kept_compute")
def test_a_kill_costs_no_finished_shard_and_changes_no_byte(
    undisturbed: bytes, root: Path, prefect_api: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = root / "killed.csv.parts"

    def finished() -> int:
        return len(list(parts.glob("*/*")))

    killed = start(root, "killed.csv", prefect_api)
    wait(killed, 3, finished)
    kill(killed)
    after_kill = finished()
    assert not (root / "killed.csv").exists()
    # Asked to stop, it ends in order, and keeps what is finished too.
    stopped = start(root, "killed.csv", prefect_api)
    wait(stopped, after_kill + 3, finished)
    stopped.terminate()
    out, error = stopped.communicate(timeout=60)
    assert (stopped.returncode, out) == (1, "")
    assert error.splitlines()[-1].startswith("error: Stopped as asked; what was finished is kept")
    assert "Traceback" not in error
    kept = finished()
    assert after_kill + 3 <= kept < SHARDS
    monkeypatch.chdir(root)
    capsys.readouterr()
    assert main(arguments("killed.csv")) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (record["rows"], record["shards"], record["reused"]) == (SHARD_ROWS * SHARDS - 7, SHARDS, kept)
    assert (record["name"], record["run"], record["devices"]) == ("topics", "crowned", ["cpu, fp32"])
    assert (root / "killed.csv").read_bytes() == undisturbed
    assert not parts.exists()


def test_a_kill_costs_no_finished_shard_in_s3_even_on_another_machine(
    undisturbed: bytes,
    root: Path,
    prefect_api: str,
    s3_server: S3Server,
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_ENDPOINT_URL_S3": s3_server.endpoint}
    for name, value in {**keys, "FINETUNE_FLOWS_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    store = s3_server.store("predicting")
    crown(store, "topics", publish_model(store, tmp_path, encoder, "text-classification", SETTINGS, labels=list(TOPICS)))
    # A folder whose name S3 takes, but keys of artifacts would not.
    output = f"s3://{BUCKET}/{tmp_path.name}/pre dictions/ü.csv"
    place: Any = open_output(output)
    more = ["--store", f"s3://{BUCKET}/predicting"]

    def finished() -> int:
        return len(place.bucket.scan(place.parts))

    killed = start(root, output, prefect_api, *more, **keys)
    wait(killed, 5, finished)
    kill(killed)
    kept = finished()
    assert place.bucket.get(place.key) is None
    # Nothing of the first machine but the bucket: another cache, another folder for scratch.
    (tmp_path / "scratch").mkdir()
    other = {"FINETUNE_FLOWS_CACHE": str(tmp_path / "other-cache"), "TMPDIR": str(tmp_path / "scratch")}
    record = finish(start(root, output, prefect_api, *more, **{**keys, **other}))
    assert (record["shards"], record["reused"]) == (SHARDS, kept)
    assert place.bucket.get(place.key)[0] == undisturbed
    assert list(place.bucket.scan(place.key)) == [place.key]
    assert list((tmp_path / "scratch").iterdir()) == []
    # The mark of the killed run stays until it is old; that of the other is gone.
    assert len(store.marks()) == 1
