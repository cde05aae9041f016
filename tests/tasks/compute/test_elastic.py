"""The launcher of several processes as its parent sees it: one of it all stops, fails or dies, and nothing is left."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import psutil
import pytest

from tasks.compute.client import ComputeProcess, compute_environment
from tasks.compute.elastic import reason
from tasks.errors import ComputeFailed, ComputeLost, FlowsError, OutOfMemory, Preempted, TimeLimitExceeded, TrainingDiverged
from tests.tasks.compute.commands import train_arguments

# Stands in for the modules of the commands, which take seconds to import: `train` and `tokenize` are what a test writes.
SITE = """
import json, os, pathlib, sys, types
here, name = pathlib.Path(__file__).parent, os.environ.get("RANK", "launcher")
if len(sys.orig_argv) > 2 and sys.orig_argv[1:3] in (["-m", "tasks.compute"], ["-m", "tasks.compute.elastic"]):
    name = "alone" if sys.orig_argv[2] == "tasks.compute" else name
    seen = {"pid": os.getpid(), "environment": dict(os.environ)}
    (here / f"{name}.json").write_text(json.dumps(seen))
    if name != "launcher":
        for command in ("train", "tokenize"):
            module = types.ModuleType(f"tasks.compute.{command}")
            exec((here / "commands.py").read_text(), module.__dict__)
            sys.modules[module.__name__] = module
"""
COMMANDS = """
import os, pathlib, time
from tasks import errors
here, rank = pathlib.Path({here!r}), os.environ.get("RANK")

def tokenize(channel, **arguments):
    return {{}}

def all_are_here():
    (here / f"here-{{rank}}").touch()
    while len(list(here.glob("here-*"))) < 2:
        time.sleep(0.01)

def train(channel, **arguments):
    all_are_here()
    channel.send("log", level=20, message=f"ready {{rank}}")
    print("printed by", rank, flush=True)
    {body}
    return {{"said by": rank}}
"""
HANG = "time.sleep(600)"


class Stage(NamedTuple):
    """A folder whose `sitecustomize` puts commands of a test in place of the real ones."""

    folder: Path

    def pids(self) -> dict[str, int]:
        seen = {path.stem: json.loads(path.read_text(encoding="utf-8"))["pid"] for path in self.folder.glob("*.json")}
        return {name: pid for name, pid in seen.items() if name in ("launcher", "0", "1", "alone")}

    def environment(self, name: str) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))["environment"]
        return found

    def request(self, compute: ComputeProcess, on_ready: Callable[[], None] = lambda: None, **options: Any) -> dict[str, Any]:
        """Train on nothing, and call `on_ready` once all processes are there."""

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "log" and event["message"] == "ready 0":
                on_ready()

        (self.folder / "checkpoints").mkdir(exist_ok=True)
        arguments = {"checkpoints": str(self.folder / "checkpoints"), "training": {"processes": 2}}
        return compute.request("train", arguments, on_event=options.pop("on_event", on_event), **options)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Stage]:
    def make(body: str) -> Stage:
        (tmp_path / "sitecustomize.py").write_text(SITE, encoding="utf-8")
        (tmp_path / "commands.py").write_text(COMMANDS.format(here=str(tmp_path), body=body), encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return Stage(tmp_path)

    return make


def all_end(pids: Mapping[str, int], seconds: float = 10) -> bool:
    """Wait for the end of processes, whoever their parents are, and tell whether it came."""
    deadline = time.monotonic() + seconds
    for pid in pids.values():
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([handle], [], [], max(0, deadline - time.monotonic()))[0]:
                return False
        finally:
            os.close(handle)
    return True


def test_the_first_process_speaks_for_all_and_nothing_is_left(
    stage: Callable[[str], Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "withheld")
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1,2")
    set_up = stage("")
    events: list[dict[str, Any]] = []
    with ComputeProcess() as compute:
        compute.request("tokenize", {})
        ordinary = compute.pid
        assert set_up.request(compute, on_event=events.append) == {"said by": "0"}
        # What may hold a GPU's memory is gone before the launcher comes, and the other way round.
        assert not psutil.pid_exists(ordinary or 0)
        assert events == [{"event": "log", "level": 20, "message": "ready 0"}]
        compute.request("tokenize", {})
        pids = set_up.pids()
        assert compute.pid == pids.pop("alone")
        assert all_end(pids)
    assert pids.keys() == {"launcher", "0", "1"}
    for name in pids:
        environment = set_up.environment(name)
        assert "withheld" not in environment.values()
        assert environment["CUDA_VISIBLE_DEVICES"] == "3,1"
    share = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert [set_up.environment(rank)["OMP_NUM_THREADS"] for rank in "01"] == [share, share]


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("if rank == '1': raise errors.OutOfMemory('No more.')\n    time.sleep(600)", OutOfMemory, "No more."),
        # What the others raise for lack of it comes sooner, or later: it does not count.
        (
            "if rank == '0': raise RuntimeError('Connection closed by peer')\n    raise errors.TrainingDiverged('Is nan.')",
            TrainingDiverged,
            "Is nan.",
        ),
        ("if rank == '1': raise KeyError('x')\n    time.sleep(600)", ComputeFailed, "KeyError: 'x'"),
    ],
    ids=["ours", "ours beside another", "any"],
)
def test_an_error_of_another_process_keeps_its_class(stage: Callable[[str], Stage], body: str, error: type, message: str) -> None:
    set_up = stage(body)
    with ComputeProcess() as compute, pytest.raises(FlowsError) as caught:
        set_up.request(compute)
    assert (type(caught.value), str(caught.value)) == (error, message)
    assert all_end(set_up.pids())
    assert list((set_up.folder / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("victim", "message"),
    [
        ("1", r"^Process 1 of 2 was killed by SIGKILL \(out of memory\?\) during 'train'\.$"),
        ("0", r"^Process 0 of 2 was killed by SIGKILL \(out of memory\?\) during 'train'\.$"),
        ("launcher", r"^The compute process was killed by SIGKILL \(out of memory\?\) during 'train'\."),
    ],
)
def test_a_process_that_dies_takes_all_with_it(stage: Callable[[str], Stage], victim: str, message: str) -> None:
    # The others hang, as if they waited for it on a GPU.
    set_up = stage(HANG)
    with ComputeProcess() as compute, pytest.raises(ComputeLost, match=message):
        set_up.request(compute, lambda: os.kill(set_up.pids()[victim], signal.SIGKILL), time_limit_s=60)
    assert all_end(set_up.pids())


def test_a_sigterm_to_each_of_them_asks_them_to_stop(stage: Callable[[str], Stage]) -> None:
    # As systemd sends it to every process of a service.
    set_up = stage("while not channel.stop_requested: time.sleep(0.01)")
    with ComputeProcess() as compute:

        def terminate() -> None:
            for rank in "01":
                os.kill(set_up.pids()[rank], signal.SIGTERM)

        assert set_up.request(compute, terminate, time_limit_s=60) == {"said by": "0"}


def test_processes_that_hang_are_killed_at_their_limit(stage: Callable[[str], Stage]) -> None:
    set_up = stage(HANG)

    def stop() -> None:
        for pid in set_up.pids().values():
            os.kill(pid, signal.SIGSTOP)

    with ComputeProcess() as compute, pytest.raises(TimeLimitExceeded, match="did not end within its limit of 8 s"):
        set_up.request(compute, stop, time_limit_s=8)
    assert set_up.pids().keys() == {"launcher", "0", "1"}
    assert all_end(set_up.pids())


def test_all_die_with_the_parent_even_while_they_hang(stage: Callable[[str], Stage], pytestconfig: pytest.Config) -> None:
    set_up = stage(HANG)
    (set_up.folder / "checkpoints").mkdir()
    code = """
import json, sys
from tasks.compute.client import ComputeProcess
ComputeProcess().request("train", json.loads(sys.argv[1]), on_event=lambda event: print(event["message"], flush=True))
"""
    arguments = json.dumps({"checkpoints": str(set_up.folder / "checkpoints"), "training": {"processes": 2}})
    command = [sys.executable, "-c", code, arguments]
    # Without the test's commands in the parent, whose imports are real.
    path = os.pathsep.join([str(pytestconfig.rootpath), str(set_up.folder)])
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready 0\n"
        for pid in set_up.pids().values():
            os.kill(pid, signal.SIGSTOP)
        parent.kill()
        assert all_end(set_up.pids())


def test_one_that_dies_after_it_was_asked_to_stop_is_preempted(stage: Callable[[str], Stage]) -> None:
    class Asked(Exception):
        """What a handler of SIGTERM raises."""

    set_up = stage("while not channel.stop_requested: time.sleep(0.01)\n    if rank == '1': os.kill(os.getpid(), 9)\n    " + HANG)

    def ask() -> None:
        raise Asked

    with ComputeProcess() as compute, pytest.raises(Preempted, match=r"Process 1 of 2 was killed by SIGKILL .* to resume"):
        set_up.request(compute, ask, stop_at=(Asked,), time_limit_s=60)


@pytest.fixture(scope="module")
def endless(tokens: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Return the arguments of a real training in two processes that takes its time."""
    folder = tmp_path_factory.mktemp("endless")

    def make(**settings: Any) -> dict[str, Any]:
        return train_arguments(tokens, encoder, folder / "model", epochs=1000, processes=2, **settings)

    return make


def test_sigterm_ends_a_real_training_with_a_checkpoint_of_all(endless: Callable[..., dict[str, Any]]) -> None:
    events: list[dict[str, Any]] = []
    with ComputeProcess() as compute:

        def terminate(event: dict[str, Any]) -> None:
            events.append(event)
            if event["event"] == "progress":
                os.kill(compute.pid or 0, signal.SIGTERM)

        answer = compute.request("train", endless(), on_event=terminate, time_limit_s=120)
    assert answer["stop_reason"] == "preempted"
    assert 0 < answer["steps"] < answer["planned_steps"] == 24_000
    (checkpoint,) = [event for event in events if event["event"] == "checkpoint"]
    assert checkpoint["step"] == answer["steps"]
    assert {"rng_state_0.pth", "rng_state_1.pth"} < {path.name for path in Path(checkpoint["folder"]).iterdir()}


def test_a_killed_process_of_a_real_training_is_told_as_lost(endless: Callable[..., dict[str, Any]]) -> None:
    killed: dict[str, float] = {}
    with ComputeProcess() as compute:

        def kill(event: dict[str, Any]) -> None:
            if event["event"] == "progress" and not killed:
                ranks = sorted(psutil.Process(compute.pid or 0).children(), key=lambda process: process.environ()["RANK"])
                killed["at"] = time.monotonic()
                killed.update({"0": ranks[0].pid, "1": ranks[1].pid})
                ranks[1].kill()

        with pytest.raises(ComputeLost, match=r"^Process 1 of 2 was killed by SIGKILL"):
            compute.request("train", endless(), on_event=kill, time_limit_s=120)
    assert time.monotonic() - killed.pop("at") < 10
    assert all_end({name: int(pid) for name, pid in killed.items()}, 0)


def ended(exitcode: int) -> Any:
    return SimpleNamespace(exitcode=exitcode)


OURS = {"error": "OutOfMemory", "message": "no more"}
OTHER = {"error": "ComputeFailed", "message": "RuntimeError: Connection closed"}


@pytest.mark.parametrize(
    ("told", "failures", "error", "message"),
    [
        ({1: OURS}, {0: ended(1), 1: ended(1)}, "OutOfMemory", "no more"),
        ({0: OTHER, 1: OURS}, {0: ended(1), 1: ended(1)}, "OutOfMemory", "no more"),
        ({0: OTHER}, {0: ended(1), 1: ended(-9)}, "ComputeLost", "Process 1 of 2 was killed by SIGKILL (out of memory?)"),
        ({0: OTHER}, {0: ended(1), 1: ended(-11)}, "ComputeLost", "Process 1 of 2 was killed by SIGSEGV during 'train'."),
        # The launcher ended the second, which waited for the first.
        ({0: OTHER}, {0: ended(1), 1: ended(-15)}, "ComputeFailed", "RuntimeError: Connection closed"),
        ({}, {1: ended(3)}, "ComputeLost", "Process 1 of 2 ended with exit code 3 during 'train'."),
    ],
)
def test_the_error_that_counts_is_told(
    told: dict[int, Any], failures: dict[int, Any], error: str, message: str, tmp_path: Path
) -> None:
    for rank, fault in told.items():
        (tmp_path / f"fault-{rank}.json").write_text(json.dumps(fault), encoding="utf-8")
    found = reason(tmp_path, 2, failures)
    assert found["error"] == error
    assert found["message"].startswith(message)


@pytest.mark.parametrize(
    ("given", "processes", "seen"),
    [(None, 1, "0"), (None, 3, "0,1,2"), ("3,1", 1, "3"), ("3,1", 2, "3,1"), ("3", 2, "3"), ("", 2, "")],
)
def test_as_many_gpus_are_seen_as_there_are_processes(
    given: str | None, processes: int, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert compute_environment(processes)["CUDA_VISIBLE_DEVICES"] == seen


def test_the_environment_does_not_change_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert compute_environment(1)["ACCELERATE_MIXED_PRECISION"] == "no"


@pytest.mark.parametrize(("library", "kept"), [(("glibc", "2.36"), True), (("glibc", "2.34"), False), (("", ""), False)])
def test_freed_memory_is_kept_where_the_c_library_can(
    library: tuple[str, str], kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: library)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "77")
    found = compute_environment(1)
    assert ("MALLOC_MMAP_THRESHOLD_" in found) == kept
    assert found["MALLOC_TRIM_THRESHOLD_"] == "77"
