"""The compute process's side of its protocol: events out, and the wish to stop."""

import json
import os
import threading
import time
from pathlib import Path
from typing import IO, Any

PROGRESS_INTERVAL_S = 2.0


class Channel:
    """Sends events as JSON lines; safe to use from several threads."""

    def __init__(self, stream: IO[str], stop_file: Path | None = None) -> None:
        self._stream, self._stop_file = stream, stop_file
        self._lock = threading.RLock()
        self._next_progress = 0.0
        self._stop = False

    @classmethod
    def take_over_stdout(cls, *, speaks: bool = True, stop_file: Path | None = None) -> "Channel":
        """Keep standard output for the protocol and send what libraries print there to standard error.

        Args:
            speaks: Whether events are sent at all.
            stop_file: A file that asks to stop where it exists.
        """
        stream = os.fdopen(os.dup(1) if speaks else os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
        os.dup2(2, 1)
        return cls(stream, stop_file)

    @property
    def stop_requested(self) -> bool:
        """Whether a running training is to stop after its optimizer step."""
        return self._stop or (self._stop_file is not None and self._stop_file.exists())

    def request_stop(self) -> None:
        """Ask a running training to stop; called by the handler of SIGTERM."""
        self._stop = True

    def send(self, event: str, **content: Any) -> None:
        """Send an event. The content must be JSON."""
        with self._lock:
            self._stream.write(json.dumps({"event": event, **content}) + "\n")
            self._stream.flush()

    def progress(self, done: int, total: int, *, last: bool = False, **content: Any) -> None:
        """Send progress at most every `PROGRESS_INTERVAL_S` seconds, and where `last` is set."""
        now = time.monotonic()
        if last or now >= self._next_progress:
            self._next_progress = now + PROGRESS_INTERVAL_S
            self.send("progress", done=done, total=total, **content)
