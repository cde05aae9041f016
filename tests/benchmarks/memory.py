"""Peaks of what processes hold, by samples."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import psutil


@contextmanager
def watched(sample: Callable[[], Mapping[str, float]], every_s: float) -> Iterator[dict[str, float]]:
    """Yield the largest so far of each number that `sample` returns; it may fail for a process that has ended."""
    peaks: dict[str, float] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            with suppress(psutil.Error, OSError):
                for name, value in sample().items():
                    peaks[name] = max(peaks.get(name, 0.0), value)
            over.wait(every_s)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()
