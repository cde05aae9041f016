"""The parent's side of the compute process: start it, ask it, end it with everything that it started."""

import contextlib
import json
import logging
import os
import platform
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tasks import errors
from tasks.errors import ComputeFailed, ComputeLost, FlowsError, Preempted, TimeLimitExceeded
from tasks.text import one_line

Event = dict[str, Any]

# The compute process gets local paths only; what could let it, or code that comes with a model, reach further stays here.
_WITHHELD = re.compile(r"^(AWS_|PREFECT_|GOOGLE_|AZURE_)|TOKEN$|_KEY$|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_KEPT_BYTES = str(2**31)
_KEPT_KERNELS = "256"
_EXIT_GRACE_S = 5.0
STOP_LIMIT_S = 20.0
"""Seconds that a training has to stop: Prefect's process worker kills after 30, and the checkpoint is still to be published."""


class ComputeProcess:
    """A compute process, started at the first request and ended with the context.

    Not safe to use from several threads at once.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._module = ""
        self._events: queue.Queue[Event | None] = queue.Queue()
        self._errors: deque[str] = deque(maxlen=50)
        self._readers: list[threading.Thread] = []
        self._stop_deadline: float | None = None

    def __enter__(self) -> "ComputeProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close(kill=kind is not None)

    @property
    def pid(self) -> int | None:
        """Process id, or None while it does not run."""
        return self._process.pid if self._process else None

    def request(
        self,
        command: str,
        arguments: dict[str, Any],
        *,
        on_event: Callable[[Event], None] = lambda event: None,
        time_limit_s: float | None = None,
        stop_at: tuple[type[BaseException], ...] = (),
    ) -> dict[str, Any]:
        """Send a command and wait for its answer; after any error the process is gone, and a new request starts another.

        Training in several processes has a launcher for itself in the process's place.

        Args:
            command: One of those in `tasks.compute.__main__`.
            arguments: The command's arguments, JSON.
            on_event: Called with each `log` and `progress` event.
            time_limit_s: Seconds after which the process is killed.
            stop_at: What handlers of signals raise: the first one asks the process to stop and answer, which `train` does.

        Raises:
            FlowsError: the error that the command raised, of its own class.
            ComputeFailed: the process raised what is no error of ours.
            ComputeLost: it died.
            TimeLimitExceeded: it did not answer in time.
            Preempted: it was asked to stop and did not within `STOP_LIMIT_S`.
        """
        deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
        process = self._start(arguments.get("training", {}).get("processes", 1))
        self._stop_deadline = None
        try:
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps({"command": command, "arguments": arguments}) + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                raise self._died(command) from None
            while True:
                try:
                    event = self._next_event(deadline, command, time_limit_s)
                    if event is None:
                        raise self._died(command)
                    if event["event"] == "answer":
                        answer: dict[str, Any] = event["answer"]
                        return answer
                    if event["event"] == "error":
                        raise self._to_error(event)
                    on_event(event)
                except stop_at:
                    if self.asked_to_stop:
                        raise
                    self._ask_to_stop(process)
        except BaseException:
            self.close(kill=True)
            raise

    @property
    def asked_to_stop(self) -> bool:
        """Whether the last request was asked to stop."""
        return self._stop_deadline is not None

    def _ask_to_stop(self, process: "subprocess.Popen[str]") -> None:
        self._stop_deadline = time.monotonic() + STOP_LIMIT_S
        with contextlib.suppress(ProcessLookupError):
            process.terminate()

    def close(self, *, kill: bool = False) -> None:
        """End the process and all that it started; at once with `kill`."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            if not kill and process.stdin is not None:
                process.stdin.close()
                process.wait(_EXIT_GRACE_S)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            pass
        finally:
            _kill_group(process)
            process.wait()
            for thread in self._readers:
                thread.join(_EXIT_GRACE_S)
            for stream in (process.stdin, process.stdout, process.stderr):
                _close(stream)

    def _start(self, processes: int) -> subprocess.Popen[str]:
        """Return the process for the next command; a launcher of several takes one, and no other holds memory beside it."""
        module = "tasks.compute" if processes == 1 else "tasks.compute.elastic"
        if module == self._module == "tasks.compute" and self._process is not None and self._process.poll() is None:
            return self._process
        self.close(kill=True)
        self._module = module
        self._events, self._errors = queue.Queue(), deque(maxlen=50)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=compute_environment(processes),
            # A group of its own: Ctrl-C at the terminal reaches the parent alone, and one signal ends the whole group.
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=_read_events, args=(self._process.stdout, self._events), daemon=True),
            threading.Thread(target=self._errors.extend, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        return self._process

    def _next_event(self, deadline: float | None, command: str, time_limit_s: float | None) -> Event | None:
        """Wait in short pieces, so that signals are handled and the deadline holds even if the process hangs."""
        while True:
            if self._stop_deadline is not None and time.monotonic() > self._stop_deadline:
                raise Preempted(
                    f"Command {command!r} did not stop within {STOP_LIMIT_S:g} s of being asked and was killed; "
                    "run the same command to resume from its last checkpoint."
                )
            left = 1.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeLimitExceeded(
                    f"Command {command!r} did not end within its limit of {time_limit_s:g} s and was killed; "
                    "raise training.time_limit_s or train less."
                )
            try:
                return self._events.get(timeout=min(1.0, left))
            except queue.Empty:
                continue

    def _to_error(self, event: Event) -> FlowsError:
        error_class = getattr(errors, str(event["error"]), ComputeFailed)
        if not (isinstance(error_class, type) and issubclass(error_class, FlowsError)):
            error_class = ComputeFailed
        if error_class is ComputeLost and self.asked_to_stop:
            return Preempted(f"{event['message']} It was asked to stop; run the same command to resume.")
        return error_class(event["message"])

    def _died(self, command: str) -> FlowsError:
        assert self._process is not None
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if code == -signal.SIGKILL:
            how += " (out of memory?)"
        time.sleep(0.1)
        tail = next((line for line in reversed(self._errors) if line.strip()), "")
        if self.asked_to_stop:
            return Preempted(f"The compute process {how} as it was asked to stop; run the same command to resume.")
        return ComputeLost(f"The compute process {how} during {command!r}. {one_line(tail, 200)}".strip())


def _read_events(stream: Any, events: "queue.Queue[Event | None]") -> None:
    for line in stream:
        try:
            events.put(json.loads(line))
        except ValueError:
            events.put({"event": "log", "level": logging.WARNING, "message": one_line(line)})
    events.put(None)


def _kill_group(process: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _close(stream: IO[str] | None) -> None:
    """Close a pipe; what could not be written to a process that is gone is lost with it."""
    if stream is not None:
        with contextlib.suppress(BrokenPipeError):
            stream.close()


def compute_environment(processes: int) -> dict[str, str]:
    """Return the environment of the compute process: no credentials, no Hub, as many GPUs as processes, our packages as here."""
    kept = {name: value for name, value in os.environ.items() if not _WITHHELD.search(name)}
    root = str(Path(__file__).parent.parent.parent)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(processes)))).split(",")
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "true",
        # At its default, 30 times as long, torch's threads keep the cores busy with waiting for each other: beside one other busy
        # process a training on two cores ran at a fifteenth of its speed, with this at half. Alone both are as fast.
        # Source: https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000"),
        **_memory_kept(),
        # A CPU's kernels are made for each shape and kept, a megabyte each: by default 1,024, and a language model's steps have a
        # shape of their own each.
        # Source: https://uxlfoundation.github.io/oneDNN/dev_guide_primitive_cache.html, and ideep's lru_cache.hpp.
        **{name: os.environ.get(name, _KEPT_KERNELS) for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")},
        # The precision is a setting of ours.
        "ACCELERATE_MIXED_PRECISION": "no",
        # One process would use all GPUs through DataParallel.
        "CUDA_VISIBLE_DEVICES": ",".join(gpus[:processes]),
    }


def _memory_kept() -> dict[str, str]:
    """Return what makes the C library keep memory that a training step has freed for the next one.

    It would give large blocks, such as an embedding's gradient, back to the system and ask for them anew in each step, to be
    cleared page by page: a 25th of the step, and more for a language model. Before glibc 2.35 it takes no such threshold for what
    is mapped, and the other alone would make it worse.

    Source: mallopt(3).
    """
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return {}
    return {name: os.environ.get(name, _KEPT_BYTES) for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")}
