"""A mark in the store that says which run is alive and what it uses, so that nobody prunes it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from blocks.artifact_store import ArtifactStore
from blocks.errors import StoreError

REFRESH_S = 300.0
"""Seconds after which a run writes its mark again."""


class _Mark:
    """The mark of one run; written whenever it uses another key, and by a thread now and then."""

    def __init__(self, store: ArtifactStore, run_id: str) -> None:
        self.store, self.run_id = store, run_id
        self.keys: list[str] = []
        self.lock = threading.Lock()
        self.over = threading.Event()

    def add(self, key: str) -> None:
        if key not in self.keys:
            self.keys.append(key)
            self.write()

    def write(self) -> None:
        with self.lock:
            if not self.over.is_set():
                self.store.mark(self.run_id, {"keys": list(self.keys), "refreshed_s": REFRESH_S})

    def refresh(self) -> None:
        while not self.over.wait(REFRESH_S):
            # A store that is away for a while is no reason to end a run that does not need it now.
            with suppress(StoreError):
                self.write()


_current: ContextVar[_Mark | None] = ContextVar("_current", default=None)


@contextmanager
def alive(store: ArtifactStore, run_id: str) -> Iterator[None]:
    """Keep a mark of the run in the store for as long as the context lasts."""
    mark = _Mark(store, run_id)
    thread = threading.Thread(target=mark.refresh, daemon=True)
    thread.start()
    token = _current.set(mark)
    try:
        yield
    finally:
        _current.reset(token)
        with mark.lock:
            mark.over.set()
        with suppress(StoreError):
            store.unmark(run_id)
        thread.join()


def says_it_uses(key: str) -> None:
    """Add a key, or a prefix of keys, to the mark of the run that this is called in, if there is one."""
    if (mark := _current.get()) is not None:
        mark.add(key)
