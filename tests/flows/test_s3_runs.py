"""Tests of runs that keep their artifacts in S3: two machines share nothing but a bucket, and no secret is written anywhere."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.flows.test_launch import run_here, start
from tests.helpers import NO_BASELINES, prepare_home, topic_rows, write_csv
from tests.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

STEPS = ["load-dataset", "tokenize", "evaluate-baseline", "fine-tune", "evaluate-fine-tuned", "compare"]


@dataclass
class Ran:
    """What a run of the command left behind."""

    record: dict[str, Any]
    log: str
    started_compute: bool = False

    def steps(self, state: str) -> set[str]:
        return {name for name in STEPS if f"{name}: Finished in state {state}" in self.log}


class Machine:
    """A machine with a Prefect home, a cache, and copies of data and model of its own; the environment has the credentials."""

    def __init__(self, root: Path, server: S3Server, store: str, model: Path) -> None:
        self.root = root
        prepare_home(root / "prefect")
        shutil.copytree(model, root / "model")
        self.rows = topic_rows(240)
        self.source = write_csv(root / "data" / "topics.csv", self.rows)
        self.environment = {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL_S3": server.endpoint,
            "FINETUNE_FLOWS_CACHE": str(root / "cache"),
        }

        settings = {"store": store, "name": "topics", "data.source": "data/topics.csv", "model.name": "model"}
        settings |= {"training.learning_rate": "0.01", "training.max_length": "32", "training.epochs": "3"}
        settings |= {f"baselines.{name}": str(wanted) for name, wanted in NO_BASELINES.items()}
        self.arguments = [word for name, value in settings.items() for word in (f"--{name}", value)] + ["--json"]

    def start(self, *extra: str, **environment: str) -> "subprocess.Popen[str]":
        return start(self.root, *self.arguments, *extra, cwd=self.root, **(self.environment | environment))

    def run(self, *extra: str, **environment: str) -> Ran:
        """Run the command to its end, with an eye on the processes that it starts."""
        process = self.start(*extra, **environment)
        computes = False
        while process.poll() is None:
            computes = computes or any("tasks.compute" in command for command in _commands(process.pid))
            time.sleep(0.2)
        out, log = process.communicate()
        assert process.returncode == 0, log
        return Ran(json.loads(out.splitlines()[-1]), log, computes)

    def run_here(self, capsys: pytest.CaptureFixture[str], *extra: str) -> Ran:
        """Run the command in this process."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.root)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            code, out, log = run_here(capsys, *self.arguments, *extra)
        assert code == 0, log
        return Ran(json.loads(out.splitlines()[-1]), log)


def _commands(pid: int) -> list[str]:
    try:
        return [" ".join(child.cmdline()) for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


@pytest.fixture(scope="module")
def machines(prefect_api: str, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> list[Machine]:
    return [Machine(tmp_path_factory.mktemp(f"machine-{name}"), s3_server, f"s3://{BUCKET}/shared", encoder) for name in "abc"]


@pytest.fixture(scope="module")
def first(machines: list[Machine]) -> Ran:
    return machines[0].run()


def test_a_run_keeps_its_artifacts_in_the_bucket(first: Ran, s3_server: S3Server) -> None:
    assert first.steps("Completed") == set(STEPS)
    assert first.started_compute
    store = s3_server.store("shared")
    assert store.list("runs") == [first.record["key"]]
    assert first.record["report"] == f"s3://{BUCKET}/shared/{first.record['key']}/report.html"
    page = s3_server.client().get_object(Bucket=BUCKET, Key=f"shared/{first.record['key']}/report.html")["Body"].read()
    assert b"<html" in page
    # The model's address is a folder that can be copied as it is.
    folder = first.record["model"].removeprefix(f"s3://{BUCKET}/")
    names = {entry["Key"].removeprefix(folder) for entry in _objects(s3_server, folder)}
    assert {"/config.json", "/model.safetensors", "/tokenizer.json", "/README.md"} <= names
    # Nothing of a run that is over is left.
    assert store.marks() == {}
    assert store.list("checkpoints") == []
    assert store.sweep(0, delete=False) == []


def _objects(server: S3Server, prefix: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = server.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
    return listed


def test_another_machine_finds_every_step_done_and_computes_nothing(
    first: Ran, machines: list[Machine], prefect_api: str
) -> None:
    again = machines[1].run(PREFECT_API_URL=prefect_api)
    assert again.steps("Cached") == set(STEPS)
    assert not again.started_compute
    for name in ("steps", "model", "before", "after"):
        assert again.record[name] == first.record[name]


@pytest.mark.usefixtures("first", "prefect_api", "kept_compute")
def test_only_what_changed_and_what_follows_is_computed_on_another_machine(
    machines: list[Machine], capsys: pytest.CaptureFixture[str]
) -> None:
    setting = machines[1].run_here(capsys, "--training.weight_decay", "0.1")
    assert setting.steps("Cached") == {"load-dataset", "tokenize", "evaluate-baseline"}
    write_csv(machines[1].source, [*machines[1].rows, {"text": "one more match", "label": "sport"}])
    data = machines[1].run_here(capsys)
    assert data.steps("Completed") == set(STEPS)


@pytest.mark.usefixtures("prefect_api", "kept_compute")
def test_refresh_makes_every_step_anew(first: Ran, machines: list[Machine], capsys: pytest.CaptureFixture[str]) -> None:
    again = machines[0].run_here(capsys, "--refresh")
    assert again.steps("Completed") == set(STEPS)
    assert again.record["after"] == first.record["after"]


@pytest.mark.usefixtures("prefect_api", "kept_compute")
def test_a_damaged_artifact_is_made_anew(
    first: Ran, machines: list[Machine], s3_server: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    # In the bucket and in no cache: a third machine has to fetch it.
    key = first.record["steps"]["compare"]
    (analysis,) = [entry["Key"] for entry in _objects(s3_server, f"shared/{key}/") if entry["Key"].endswith("analysis.json")]
    client = s3_server.client()
    content = client.get_object(Bucket=BUCKET, Key=analysis)["Body"].read()
    client.put_object(Bucket=BUCKET, Key=analysis, Body=content.replace(b"rows", b"rovs", 1))
    again = machines[2].run_here(capsys)
    assert "is missing or damaged" in again.log
    assert again.steps("Completed") == {"compare"}
    assert again.record["after"] == first.record["after"]


def test_wrong_keys_are_one_line_and_exit_code_2(machines: list[Machine]) -> None:
    process = machines[0].start(AWS_SECRET_ACCESS_KEY="wrong+" + SECRET_KEY[6:])
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert error.startswith("error: The credentials are refused at http://127.0.0.1:")
    assert error.count("\n") == 1


def texts(root: Path) -> Iterator[tuple[str, bytes]]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                yield str(path), path.read_bytes()


def test_no_secret_is_in_anything_that_a_run_writes(first: Ran, machines: list[Machine], s3_server: S3Server) -> None:
    # A failing run too: with a server that is not there.
    process = machines[0].start(AWS_ENDPOINT_URL_S3="http://127.0.0.1:9")
    out, error = process.communicate(timeout=120)
    assert process.returncode == 1
    client = s3_server.client()
    written = [("stdout", out.encode()), ("stderr", error.encode()), ("log", first.log.encode())]
    written += [("record", json.dumps(first.record).encode())]
    written += [
        (entry["Key"], client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read())
        for entry in _objects(s3_server, "shared/")
    ]
    # Prefect's database, with logs, artifacts, parameters and states; the cache.
    for machine in machines:
        written += list(texts(machine.root))
    assert len(written) > 50
    for secret in (ACCESS_KEY, SECRET_KEY):
        assert [name for name, content in written if secret.encode() in content] == []
    # Nor an address that lets anybody in.
    assert [name for name, content in written if b"X-Amz-Signature" in content] == []
