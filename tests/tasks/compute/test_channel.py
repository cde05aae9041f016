"""Tests of the compute process's side of the protocol."""

import io
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.compute.channel import Channel
from tests.tasks.compute.commands import events


def test_progress_is_sent_at_once_then_seldom_but_the_last_always() -> None:
    stream = io.StringIO()
    channel = Channel(stream)
    for done in range(1, 4):
        channel.progress(done, 4, loss=0.5)
    channel.progress(4, 4, last=True)
    assert events(stream) == [
        {"event": "progress", "done": 1, "total": 4, "loss": 0.5},
        {"event": "progress", "done": 4, "total": 4},
    ]


def test_a_stop_is_asked_for_by_call_or_by_file(tmp_path: Path) -> None:
    called, told, neither = Channel(io.StringIO()), Channel(io.StringIO(), tmp_path / "stop"), Channel(io.StringIO())
    assert not any(channel.stop_requested for channel in (called, told, neither))
    called.request_stop()
    assert [channel.stop_requested for channel in (called, told, neither)] == [True, False, False]
    (tmp_path / "stop").touch()
    assert [channel.stop_requested for channel in (called, told, neither)] == [True, True, False]


def test_events_of_several_threads_are_whole_lines() -> None:
    stream = io.StringIO()
    channel = Channel(stream)
    threads = [threading.Thread(target=lambda: [channel.send("log", message="é\n" * 50) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert events(stream) == [{"event": "log", "message": "é\n" * 50}] * 200


def test_what_libraries_print_does_not_reach_the_protocol(pytestconfig: pytest.Config) -> None:
    code = (
        "import os; from tasks.compute.channel import Channel; channel = Channel.take_over_stdout(); "
        "print('a library'); os.system('echo a program'); channel.send('log', message='ours')"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=pytestconfig.rootpath, capture_output=True, text=True, check=True)
    assert ended.stdout == '{"event": "log", "message": "ours"}\n'
    assert sorted(ended.stderr.split("\n")) == ["", "a library", "a program"]
