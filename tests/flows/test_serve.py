"""Tests of the command `serve` as a person uses it: start it, start a run, press Ctrl-C."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.__main__ import main
from tests.flows.deployed import ROOT, ask, free_port
from tests.helpers import prepare_home


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.2)
    return found


@pytest.fixture
def serving(prefect_api: str, tmp_path: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Start the command in an empty folder, and yield its process and the server's port once it serves."""
    port = free_port()
    prepare_home(tmp_path / "prefect")
    with (tmp_path / "out").open("w") as out, (tmp_path / "error").open("w") as error:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows", "serve", "--port", str(port)],
            env={**os.environ, "PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=out,
            stderr=error,
            # A group of its own, as a terminal gives each command.
            start_new_session=True,
        )
    wait_for(lambda: "Ctrl-C ends it." in (tmp_path / "out").read_text())
    yield process, port
    if process.poll() is None:
        process.terminate()
        process.wait(60)


def test_it_serves_until_ctrl_c_which_ends_it_with_all_that_it_started(
    serving: tuple["subprocess.Popen[bytes]", int], tmp_path: Path, topics_csv: Path, encoder: Path
) -> None:
    process, port = serving
    url, printed = f"http://127.0.0.1:{port}", (tmp_path / "out").read_text()
    assert f"Prefect UI: {url}\n" in printed
    assert f"PREFECT_API_URL={url}/api prefect deployment run text-classification/served --param " in printed
    assert "predict: open " in printed
    served = ask(f"{url}/api/deployments/name/predict/served")
    assert served["parameters"] == {"store": str(tmp_path / "artifacts")}
    assert "<title>Prefect" in httpx.get(url).text
    deployment = ask(f"{url}/api/deployments/name/text-classification/served")
    # The store is in the folder in which the command was started.
    assert deployment["parameters"] == {"config": {"store": str(tmp_path / "artifacts")}}
    config = {
        **{"store": str(tmp_path / "artifacts"), "data": {"source": str(topics_csv)}, "model": {"name": str(encoder)}},
        "training": {"epochs": 1000, "checkpoint_every": 50, "max_length": 32},
    }
    ask(f"{url}/api/deployments/{deployment['id']}/create_flow_run", {"parameters": {"config": config}})
    wait_for(lambda: list(tmp_path.glob("artifacts/checkpoints/*/*/manifest.json")))

    children = psutil.Process(process.pid).children(recursive=True)
    assert any("tasks.compute" in child.cmdline() for child in children)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 0
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    assert "Traceback" not in (tmp_path / "error").read_text()
    # The run was told to the server as ended, before that ended too.
    database = sqlite3.connect(tmp_path / "prefect" / "prefect.db")
    assert database.execute("select state_name from flow_run").fetchall() == [("Cancelled",)]
    database.close()


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket() as taken, temporary_settings(restore_defaults={PREFECT_API_URL}):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port), "--store", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: Port {port} is taken; if a Prefect server listens there, set PREFECT_API_URL=")


@pytest.mark.parametrize(("words", "said"), [(["--port", "0"], "--port is 0"), (["--limit", "0"], "--limit is 0")])
def test_a_wrong_option_is_exit_code_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}; give ")


def test_a_store_that_cannot_be_written_is_named_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["serve", "--store", str(tmp_path / "file")]) == 2
    assert "file" in capsys.readouterr().err
