"""What every process that computes does first: end with whoever started it, and tell of warnings and faults as events."""

import ctypes
import logging
import os
import signal
import sys
import traceback

from tasks.compute.channel import Channel
from tasks.errors import FlowsError
from tasks.text import one_line

_PR_SET_PDEATHSIG = 1  # Source: prctl(2)


def die_with_parent(parent: int) -> None:
    """Have Linux kill this process when its parent dies: that holds even while no Python code runs here."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def end_with_stdin() -> None:
    """Leave at once when standard input ends, even in the midst of a computation; for a thread."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def log_as_events(channel: Channel) -> None:
    """Send what libraries log and warn of as events."""
    logging.basicConfig(level=logging.WARNING, handlers=[_EventHandler(channel)], force=True)
    logging.captureWarnings(True)


def describe(error: Exception) -> dict[str, str]:
    """Return the content of the event `error`; what is no error of ours leaves its traceback on standard error."""
    if isinstance(error, FlowsError):
        return {"error": type(error).__name__, "message": str(error)}
    traceback.print_exception(error)
    return {"error": "ComputeFailed", "message": one_line(f"{type(error).__name__}: {error}")}


class _EventHandler(logging.Handler):
    """Sends log records as events."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        self.channel.send("log", level=record.levelno, message=one_line(record.getMessage()))
