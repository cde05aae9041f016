"""Entry point of the compute process; see the package's docstring for the protocol."""

import ctypes
import importlib
import json
import logging
import os
import queue
import signal
import sys
import threading
import traceback
from typing import Any

from tasks.compute.channel import Channel
from tasks.errors import FlowsError
from tasks.text import one_line

_MODULES = {
    "tokenize": "tasks.compute.tokenize",
    "evaluate": "tasks.compute.predict",
    "train": "tasks.compute.train",
    "devices": "tasks.compute.devices",
}
_PR_SET_PDEATHSIG = 1  # Source: prctl(2)


def main() -> None:
    """Answer commands until standard input ends."""
    channel = Channel.take_over_stdout()
    # Before torch is imported: that takes seconds, in which the signal must not kill or be lost.
    signal.signal(signal.SIGTERM, lambda *_: channel.request_stop())
    _die_with_parent(int(sys.argv[1]))
    commands: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read_commands, args=(commands,), daemon=True).start()
    logging.basicConfig(level=logging.WARNING, handlers=[_EventHandler(channel)], force=True)
    logging.captureWarnings(True)
    while True:
        try:
            command = commands.get(timeout=0.5)
        except queue.Empty:
            if channel.stop_requested:
                os._exit(0)
            continue
        _answer(channel, command["command"], command["arguments"])


def _answer(channel: Channel, command: str, arguments: dict[str, Any]) -> None:
    try:
        # Imported now, not before: torch takes seconds.
        run = getattr(importlib.import_module(_MODULES[command]), command)
        channel.send("answer", answer=run(channel, **arguments))
    except FlowsError as error:
        channel.send("error", error=type(error).__name__, message=str(error))
    except Exception as error:
        traceback.print_exc()
        channel.send("error", error="ComputeFailed", message=one_line(f"{type(error).__name__}: {error}"))


def _read_commands(commands: "queue.Queue[dict[str, Any]]") -> None:
    """Queue the lines of standard input; at its end leave at once, even in the midst of a computation."""
    for line in sys.stdin:
        commands.put(json.loads(line))
    os._exit(0)


def _die_with_parent(parent: int) -> None:
    """Have Linux kill this process when its parent dies: that holds even while no Python code runs here."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class _EventHandler(logging.Handler):
    """Sends log records as events."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        self.channel.send("log", level=record.levelno, message=one_line(record.getMessage()))


if __name__ == "__main__":
    main()
