"""Tests of the compute process as its parent sees it: answers, errors, limits, and that nothing of it is left."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.compute.client import ComputeProcess, compute_environment
from tasks.errors import ComputeFailed, ConfigError, FlowsError, ModelError, TimeLimitExceeded, TrainingStopped
from tasks.training import check_finished
from tests.tasks.compute.commands import tokenize_arguments, train_arguments


@pytest.fixture(scope="module")
def shared() -> Iterator[ComputeProcess]:
    """Return a compute process for the tests that need any; starting one takes seconds."""
    with ComputeProcess() as compute:
        yield compute


def ends(pid: int) -> bool:
    """Wait up to 30 s for the end of a process, whoever its parent is, and tell whether it came."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 30)[0])
    finally:
        os.close(handle)


def test_one_process_answers_request_after_request(shared: ComputeProcess, rows: Path, encoder: Path, tmp_path: Path) -> None:
    answers = [shared.request("tokenize", tokenize_arguments(rows, encoder, tmp_path / str(number))) for number in range(2)]
    pid = shared.pid
    assert answers[0] == answers[1]
    assert answers[0]["test"]["rows"] == 30
    shared.request("tokenize", tokenize_arguments(rows, encoder, tmp_path / "third", max_length=8))
    assert shared.pid == pid


@pytest.mark.parametrize(
    ("command", "changes", "error", "message"),
    [
        (
            "tokenize",
            {"settings": {"training": {"max_length": 65}}},
            ConfigError,
            "training.max_length is 65, but the model takes at most 64 tokens",
        ),
        ("tokenize", {"model": "."}, ModelError, "Tokenizer of '.' cannot be loaded"),
        ("tokenize", {"dataset": "nowhere"}, ComputeFailed, "FileNotFoundError: .*nowhere"),
        ("tokenize", {"unknown": 1}, ComputeFailed, "TypeError: .*'unknown'"),
        ("no-such-command", {}, ComputeFailed, "no-such-command"),
    ],
)
def test_an_error_keeps_its_class_and_ends_the_process(
    shared: ComputeProcess,
    command: str,
    changes: dict[str, Any],
    error: type,
    message: str,
    rows: Path,
    encoder: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(FlowsError, match=message) as caught:
        shared.request(command, tokenize_arguments(rows, encoder, tmp_path / "tokens") | changes)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert shared.pid is None


def test_a_process_that_hangs_is_killed_at_its_limit(shared: ComputeProcess, rows: Path, encoder: Path, tmp_path: Path) -> None:
    shared.request("tokenize", tokenize_arguments(rows, encoder, tmp_path / "before"))
    pid = shared.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(TimeLimitExceeded, match=r"'tokenize' did not end within its limit of 0\.2 s and was killed"):
        shared.request("tokenize", tokenize_arguments(rows, encoder, tmp_path / "during"), time_limit_s=0.2)
    assert not psutil.pid_exists(pid)
    shared.request("tokenize", tokenize_arguments(rows, encoder, tmp_path / "after"), time_limit_s=120)
    assert shared.pid not in (None, pid)


def test_a_process_that_ended_between_requests_is_replaced(
    shared: ComputeProcess, rows: Path, encoder: Path, tmp_path: Path
) -> None:
    shared.request("tokenize", tokenize_arguments(rows, encoder, tmp_path / "before"))
    pid = shared.pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)  # asked to stop while idle, it leaves
    assert ends(pid)
    shared.request("tokenize", tokenize_arguments(rows, encoder, tmp_path / "after"))
    assert shared.pid != pid


def test_a_killed_process_is_an_error_that_names_the_signal(
    shared: ComputeProcess, tokens: Path, encoder: Path, tmp_path: Path
) -> None:
    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            os.kill(shared.pid or 0, signal.SIGKILL)

    with pytest.raises(ComputeFailed, match=r"was killed by SIGKILL \(out of memory\?\) during 'train'"):
        shared.request("train", train_arguments(tokens, encoder, tmp_path / "model", epochs=1000), on_event=kill)
    assert shared.pid is None


def test_sigterm_ends_training_as_preempted_which_is_no_result(
    shared: ComputeProcess, tokens: Path, encoder: Path, tmp_path: Path
) -> None:
    def terminate(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            os.kill(shared.pid or 0, signal.SIGTERM)

    arguments = train_arguments(tokens, encoder, tmp_path / "model", epochs=1000)
    answer = shared.request("train", arguments, on_event=terminate, time_limit_s=120)
    assert answer["stop_reason"] == "preempted"
    assert 0 < answer["steps"] < answer["planned_steps"] == 24_000
    assert not (tmp_path / "model").exists()
    shared.close()
    with pytest.raises(TrainingStopped, match=r"after \d+ of 24000 optimizer steps \(preempted\)"):
        check_finished(answer)


def test_an_error_of_the_listener_ends_the_process(shared: ComputeProcess, tokens: Path, encoder: Path, tmp_path: Path) -> None:
    seen: list[int | None] = []

    def fail(event: dict[str, Any]) -> None:
        seen.append(shared.pid)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared.request("train", train_arguments(tokens, encoder, tmp_path / "model", epochs=1000), on_event=fail)
    assert shared.pid is None
    assert len(seen) == 1
    assert not psutil.pid_exists(seen[0] or 0)


@pytest.fixture
def spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have Python, where it runs the compute process, start a program of its own and write down what it can see."""
    code = """
import json, os, pathlib, subprocess, sys
if sys.orig_argv[1:3] == ["-m", "tasks.compute"]:
    child = subprocess.Popen(["sleep", "600"])
    seen = {"environment": dict(os.environ), "pid": os.getpid(), "child": child.pid, "session": os.getsid(0)}
    pathlib.Path(__file__).with_name("seen.json").write_text(json.dumps(seen))
    print("a line that is no event", flush=True)
"""
    (tmp_path / "sitecustomize.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "seen.json"


def test_closing_leaves_no_process_and_no_grandchild(spy: Path, rows: Path, encoder: Path, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    with ComputeProcess() as compute:
        assert compute.pid is None
        compute.request("tokenize", tokenize_arguments(rows, encoder, tmp_path / "tokens"), on_event=events.append)
        seen = json.loads(spy.read_text(encoding="utf-8"))
        assert seen["pid"] == compute.pid
        assert psutil.Process(seen["child"]).status() == psutil.STATUS_SLEEPING
    assert ends(seen["child"])
    assert not psutil.pid_exists(seen["pid"])
    # A session of its own: Ctrl-C at the terminal reaches the parent alone.
    assert seen["session"] == seen["pid"]
    assert {"event": "log", "level": 30, "message": "a line that is no event"} in events
    compute.close()  # once more changes nothing


def test_an_error_leaves_no_grandchild(spy: Path) -> None:
    with ComputeProcess() as compute, pytest.raises(ComputeFailed):
        compute.request("no-such-command", {})
    seen = json.loads(spy.read_text(encoding="utf-8"))
    assert not psutil.pid_exists(seen["pid"])
    assert ends(seen["child"])


def test_credentials_stay_with_the_parent(spy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = {
        *("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING"),
        *("WANDB_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_CLIENT_ID", "DB_PASSWORD", "my_secret", "CLIENT_SECRET_FILE"),
    }
    for name in secret:
        monkeypatch.setenv(name, "withheld")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    monkeypatch.setenv("PLAIN_SETTING", "kept")
    with ComputeProcess() as compute, pytest.raises(ComputeFailed):
        compute.request("no-such-command", {})
    environment = json.loads(spy.read_text(encoding="utf-8"))["environment"]
    assert secret.isdisjoint(environment)
    assert "withheld" not in environment.values()
    assert environment["PLAIN_SETTING"] == "kept"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment["PATH"] == os.environ["PATH"]


def test_the_process_dies_with_its_parent_even_while_it_hangs(
    tokens: Path, encoder: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    code = """
import json, os, signal, sys
from tasks.compute.client import ComputeProcess
compute = ComputeProcess()
def hang(event):
    if event["event"] == "progress":
        os.kill(compute.pid, signal.SIGSTOP)
        print(compute.pid, flush=True)
compute.request("train", json.loads(sys.argv[1]), on_event=hang)
"""
    arguments = json.dumps(train_arguments(tokens, encoder, tmp_path / "model", epochs=1000))
    command = [sys.executable, "-c", code, arguments]
    with subprocess.Popen(command, cwd=pytestconfig.rootpath, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.Process(pid).name()
        parent.kill()
        assert ends(pid)


_SHAPES = """
import random, psutil, torch
torch.set_num_threads(1)
weight, product, held = torch.randn(384, 64), torch.ops.mkldnn._linear_pointwise, []
rows = random.Random(0).sample(range(100, 1700), 1600)
with torch.no_grad():
    for count, number in enumerate(rows):
        product(torch.randn(number, 64), weight, None, "none", [], "")
        if count in (700, 1599):
            held.append(psutil.Process().memory_info().rss)
print((held[1] - held[0]) // 10**6)
"""


def test_memory_does_not_grow_with_the_shapes_that_were_computed() -> None:
    # Where all kernels are kept, it is 300 MB and more.
    command = [sys.executable, "-c", _SHAPES]
    done = subprocess.run(command, env=compute_environment(1), capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150, "MB more for 900 shapes"
