"""Entry point of the compute process; see the package's docstring for the protocol."""

import importlib
import json
import os
import queue
import signal
import sys
import threading
from typing import Any

from tasks.compute.channel import Channel
from tasks.compute.process import describe, die_with_parent, log_as_events

_MODULES = {
    "tokenize": "tasks.compute.tokenize",
    "evaluate": "tasks.compute.predict",
    "predict": "tasks.compute.infer",
    "train": "tasks.compute.train",
    "devices": "tasks.compute.devices",
    "guess": "tasks.compute.guess",
    "represent": "tasks.compute.represent",
    "zero_shot": "tasks.compute.zero_shot",
}


def main() -> None:
    """Answer commands until standard input ends."""
    channel = Channel.take_over_stdout()
    # Before torch is imported: that takes seconds, in which the signal must not kill or be lost.
    signal.signal(signal.SIGTERM, lambda *_: channel.request_stop())
    die_with_parent(int(sys.argv[1]))
    commands: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read_commands, args=(commands,), daemon=True).start()
    log_as_events(channel)
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
    except Exception as error:
        channel.send("error", **describe(error))


def _read_commands(commands: "queue.Queue[dict[str, Any]]") -> None:
    """Queue the lines of standard input; at its end leave at once, even in the midst of a computation."""
    for line in sys.stdin:
        commands.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
