"""Tests of the compute process's side of the protocol."""

import io
import subprocess
import sys
import threading

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
