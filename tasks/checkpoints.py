"""Checkpoints of a training under way: published in the background, found again by whoever goes on, gone when it is done."""

import queue
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from blocks.artifact_store import ArtifactStore, Record
from blocks.errors import ArtifactDamaged, StoreError
from tasks.text import one_line

_KEPT = 2


class StoredCheckpoint(NamedTuple):
    """A checkpoint that was fetched and verified."""

    key: str
    step: int
    folder: Path
    clock: "Clock | None"
    """As it was when the checkpoint was made, if that is known."""


class Clock(NamedTuple):
    """When a training began, and how much of the time since then is in its weights."""

    began: float
    """Seconds since the epoch, UTC."""
    spent_s: float


class CheckpointStore:
    """The checkpoints of one training, under `checkpoints/<key of the training>/<optimizer step>`.

    While its context lasts, a thread publishes what `offer` gives it; the last two are kept.

    Args:
        store: The store.
        train_key: Key of the step that trains.
        warn: Called with a line for each checkpoint that could not be published or read.
        made_by: Id of the run that trains.
    """

    def __init__(self, store: ArtifactStore, train_key: str, warn: Callable[[str], None], made_by: str = "") -> None:
        self.store, self.prefix, self.warn, self.made_by = store, checkpoint_prefix(train_key), warn, made_by
        self._offered: queue.Queue[tuple[int, Path, Clock | None] | None] = queue.Queue()
        self._warnings: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._publisher = threading.Thread(target=self._publish_offered, daemon=True)

    def __enter__(self) -> "CheckpointStore":
        self._publisher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._offered.put(None)
        self._publisher.join()
        self._pass_warnings_on()

    def offer(self, step: int, folder: Path, clock: Clock | None = None) -> None:
        """Publish `folder` when its turn comes; it is removed then. One that waits while a newer comes is left out."""
        self._pass_warnings_on()
        self._offered.put((step, folder, clock))

    def wait(self) -> None:
        """Wait until all that was offered is published or given up."""
        self._offered.join()
        self._pass_warnings_on()

    def keys(self) -> list[str]:
        """Return the keys of the checkpoints, oldest first."""
        return sorted(self.store.list(self.prefix), key=_step)

    def newest(self) -> StoredCheckpoint | None:
        """Fetch the newest checkpoint that verifies; damaged ones are unpublished, with a warning each."""
        for key in reversed(self.keys()):
            try:
                folder = self.store.fetch(key)
                return StoredCheckpoint(key, _step(key), folder, _clock(self.store.find(key)))
            except ArtifactDamaged:
                self.warn(f"The checkpoint of optimizer step {_step(key)} is damaged; going back to the one before it.")
        return None

    def discard(self, key: str) -> None:
        """Unpublish a checkpoint."""
        self.store.delete(key)

    def clear(self) -> None:
        """Unpublish them all: the training is done."""
        for key in self.keys():
            self.discard(key)

    def clear_of_others(self) -> None:
        """Unpublish what other runs made: the training begins anew, whatever they did."""
        for key in self.keys():
            manifest = self.store.inspect(key)
            if manifest is None or manifest.made_by != self.made_by:
                self.discard(key)

    def _publish_offered(self) -> None:
        while (offered := self._offered.get()) is not None:
            step, folder, clock = offered
            # Behind a slow store only the newest counts.
            if self._offered.empty() or self._offered.queue[0] is None:
                self._publish(step, folder, clock)
            shutil.rmtree(folder, ignore_errors=True)
            self._offered.task_done()
        self._offered.task_done()

    def _publish(self, step: int, folder: Path, clock: Clock | None) -> None:
        try:
            self.store.publish(
                folder, f"{self.prefix}/{step}", {"step": step, **(clock._asdict() if clock else {})}, made_by=self.made_by
            )
            for key in self.keys()[:-_KEPT]:
                self.discard(key)
        except (StoreError, OSError) as error:
            # Training goes on: only what a crash would cost grows.
            self._warnings.put(f"The checkpoint of optimizer step {step} could not be published: {one_line(error, 300)}")

    def _pass_warnings_on(self) -> None:
        while not self._warnings.empty():
            self.warn(self._warnings.get())


def checkpoint_prefix(train_key: str) -> str:
    """Return the key below which the checkpoints of a training lie; `train_key` is that of the step."""
    return f"checkpoints/{train_key.rpartition('/')[2]}"


def _clock(record: Record | None) -> Clock | None:
    return Clock(record["began"], record["spent_s"]) if record and "began" in record else None


def _step(key: str) -> int:
    name = key.rpartition("/")[2]
    return int(name) if name.isdecimal() else -1
