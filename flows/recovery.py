"""What a run does when its ground moves: it is asked to stop, or an artifact that it builds on turns out to be damaged."""

import datetime as dt
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, ParamSpec, TypeVar

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort, TerminationSignal
from prefect.logging import get_run_logger
from prefect.runtime import deployment, flow_run
from prefect.states import AwaitingRetry

from blocks.errors import ArtifactDamaged
from tasks.errors import Preempted
from tasks.text import one_line

P = ParamSpec("P")
R = TypeVar("R")
# Set by who supervises a run, as Prefect's Kubernetes jobs do, and then decides what becomes of it.
_SUPERVISED = "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"
# What their handlers raise.
_SIGNALS: dict[type[BaseException], signal.Signals] = {TerminationSignal: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}
_AGAIN_AFTER_S = 0.05
_STOPPED = "Stopped as asked; what was finished is kept: run the same command to resume."


def recovering(function: Callable[P, R]) -> Callable[P, R]:
    """Make the body of a flow one that stops in order on SIGTERM, and that makes what it finds damaged anew.

    The signal is Prefect's to catch, which tells cancelling from other ends by it, and raises `TerminationSignal` here.
    A run that a deployment started is scheduled again, and goes on from the last checkpoint where a Prefect worker takes it; one
    that is being cancelled is left to Prefect; one that was started by hand fails with `Preempted`. An artifact that turns out
    damaged has been unpublished by then, so the second pass through the steps makes it, and finds all others.
    """

    @functools.wraps(function)
    @_sending_again()
    def body(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            try:
                return function(*arguments, **options)
            except ArtifactDamaged as error:
                get_run_logger().warning("%s", f"Going through the steps again: {one_line(error)}")
                return function(*arguments, **options)
        except Preempted as error:
            _end_preempted(error)
        except TerminationSignal:
            _end_preempted(Preempted(_STOPPED))
        except Exception as error:
            if not _hides_signal(error):
                raise
            _end_preempted(Preempted(_STOPPED))

    return body


@contextmanager
def _sending_again() -> Iterator[None]:
    """Send a signal again whose exception was ignored: some code in C, as pydantic's, cannot pass on what a handler raises."""
    otherwise = sys.unraisablehook

    def hook(ignored: "sys.UnraisableHookArgs") -> None:
        number = _SIGNALS.get(ignored.exc_type)
        if number is None:
            otherwise(ignored)
            return
        timer = threading.Timer(_AGAIN_AFTER_S, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = otherwise


def _hides_signal(error: BaseException) -> bool:
    """Tell whether an error came of the signal: Prefect's engine raises others where it comes while a task is set up."""
    found = error.__context__
    while found is not None and not isinstance(found, TerminationSignal):
        found = found.__context__
    return found is not None


def _end_preempted(error: Preempted) -> NoReturn:
    if not deployment.id:
        raise error
    if os.environ.get(_SUPERVISED):
        raise TerminationSignal(signal.SIGTERM) from error
    with get_client(sync_client=True) as client:
        run_id: Any = flow_run.id
        state = client.read_flow_run(run_id).state
        if state is not None and (state.is_cancelling() or state.is_cancelled()):
            raise TerminationSignal(signal.SIGTERM) from error
        get_run_logger().warning("%s", one_line(error))
        again: State[Any] = AwaitingRetry(scheduled_time=dt.datetime.now(dt.UTC), message=one_line(error, 300))
        client.set_flow_run_state(run_id, again, force=True)
    raise Abort(str(error))
