"""Run a flow from the command line, against the Prefect server that is set, or a temporary one."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks.urls import shown
from flows.local_server import local_server
from tasks.config import ExperimentConfig
from tasks.errors import ConfigError
from tasks.records import Report
from tasks.text import one_line

_ANSWER_LIMIT_S = 5.0
_SEND_LIMIT_S = 5.0


def launch(kind_name: str, config: ExperimentConfig, *, refresh: bool) -> Report:
    """Run the kind's flow in this process and return its report.

    Raises:
        ConfigError: `PREFECT_API_URL` is set, but nothing answers there.
        FlowsError, StoreError: what the flow raises.
    """
    with prefect_api(meanwhile=_load_libraries) as lasts:
        from flows.console import watching
        from flows.experiments import FLOWS

        with watching(links=lasts):
            return FLOWS[kind_name](config=config, refresh=refresh)


@contextmanager
def prefect_api(*, meanwhile: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Provide Prefect's API while the context lasts, by a temporary server if none is set; say whether it outlasts the context.

    Args:
        meanwhile: Called while the temporary server starts.

    Raises:
        ConfigError: `PREFECT_API_URL` is set, but nothing answers there.
        RunError: the temporary server does not start.
    """
    for worker in ("APILogWorker", "EventsWorker"):
        # At the end they would say how much still waits to be sent, below what the command says.
        logging.getLogger(worker).setLevel(logging.ERROR)
    url = PREFECT_API_URL.value()
    if url:
        check_answers(str(url))
        yield True
        return
    # A command that needs no network should not try to report its use either.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    with local_server() as server:
        meanwhile()
        with temporary_settings({PREFECT_API_URL: server.wait_for_url()}):
            try:
                yield False
            finally:
                _send_what_waits()


def _load_libraries() -> None:
    import flows.console
    import flows.experiments  # noqa: F401


def _send_what_waits() -> None:
    """Send the last logs and events while the temporary server is still there: Prefect would try in vain for a minute at exit."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=_SEND_LIMIT_S)


def check_answers(url: str) -> None:
    """Ask a Prefect API whether it is there.

    Raises:
        ConfigError: it is not.
    """
    try:
        status = httpx.get(f"{url.rstrip('/')}/health", timeout=_ANSWER_LIMIT_S, follow_redirects=True).status_code
        reason = None if status < 500 and status != 404 else f"HTTP status {status}"
    except httpx.InvalidURL:
        # Its message may quote a part of a password.
        reason = "it is not a URL"
    except httpx.HTTPError as error:
        reason = one_line(error, 100) or type(error).__name__
    if reason:
        raise ConfigError(
            f"PREFECT_API_URL is {shown(url)!r}, but no Prefect server answers there ({reason}); start it, or unset the variable "
            "to use a temporary one."
        )
