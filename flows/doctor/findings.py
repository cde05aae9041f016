"""What a check finds, and checks that are made side by side: none keeps another from being made, none may hang."""

import contextvars
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from blocks.errors import StoreError
from tasks.errors import FlowsError
from tasks.text import one_line

Status = Literal["ok", "warn", "FAIL"]
"""`FAIL`: a run would fail."""


@dataclass(frozen=True)
class Finding:
    """One line of the command's output."""

    status: Status
    check: str
    finding: str
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """A check, not made yet."""

    name: str
    make: Callable[[], Iterable[Finding]]
    limit_s: float
    """Seconds after which it counts as hanging, and the others are told without it."""
    otherwise: Status = "FAIL"
    """The status of a check that raises or hangs."""


@dataclass(frozen=True)
class _Started:
    check: Check
    deadline: float
    found: list[Finding] = field(default_factory=list)
    ended: "Future[None]" = field(default_factory=Future)

    def run(self) -> None:
        try:
            self.found.extend(self.check.make())
        except (FlowsError, StoreError) as error:
            self._add(one_line(error, 1000))
        except Exception as error:
            self._add(f"This could not be checked ({one_line(f'{type(error).__name__}: {error}', 300)}).")
        finally:
            self.ended.set_result(None)

    def wait(self) -> list[Finding]:
        try:
            self.ended.result(max(0.0, self.deadline - time.monotonic()))
        except TimeoutError:
            self._add(f"There is no answer within {self.check.limit_s:g} s.")
        return list(self.found)

    def _add(self, text: str) -> None:
        self.found.append(Finding(self.check.otherwise, self.check.name, text))


def make_all(checks: Sequence[Check]) -> list[Finding]:
    """Make all checks at the same time, each in a thread of its own, and return what they find in their order."""
    started = [_start(check) for check in checks]
    return [finding for one in started for finding in one.wait()]


def _start(check: Check) -> _Started:
    started = _Started(check, time.monotonic() + check.limit_s)
    # Prefect's settings may be those of a context. A thread that hangs does not keep the command from ending.
    run = contextvars.copy_context().run
    threading.Thread(target=run, args=(started.run,), name=f"check {check.name}", daemon=True).start()
    return started
