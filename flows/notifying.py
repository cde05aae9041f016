"""Who is told how a run ended: a notification block of Prefect, named in the config."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from blocks.errors import NotificationRefused
from tasks.config import ExperimentConfig
from tasks.errors import ConfigError, Preempted
from tasks.records import Report
from tasks.reporting.step import unchanged
from tasks.text import one_line

if TYPE_CHECKING:
    from blocks.notification import Notify

P = ParamSpec("P")
_Experiment = Callable[Concatenate[str, ExperimentConfig, P], Report]


def notifying(function: _Experiment[P]) -> _Experiment[P]:
    """Make the body of a flow one that sends its outcome, or its error, through the block that `config.notify` names.

    A run that was asked to stop, and goes on later, says nothing. What cannot be sent is a warning in the run's log.

    Raises:
        ConfigError: there is no such block; said before anything is computed.
    """

    @wraps(function)
    def body(kind_name: str, config: ExperimentConfig, /, *arguments: P.args, **options: P.kwargs) -> Report:
        if config.notify is None:
            return function(kind_name, config, *arguments, **options)
        # Prefect's library for chat services takes its time.
        from blocks.notification import load_notifier

        try:
            notify = load_notifier(config.notify)
        except NotificationRefused as error:
            raise ConfigError(str(error)) from None
        try:
            report = function(kind_name, config, *arguments, **options)
        except Preempted:
            raise
        except Exception as error:
            _tell(notify, f"{config.name}: run {flow_run.name} failed", one_line(error, 1000))
            raise
        _tell(notify, f"{config.name}: run {flow_run.name} completed", outcome(report))
        return report

    return body


def outcome(report: Report) -> str:
    """Say in a line how the model did before and after, and where the report is."""
    told = [unchanged(report) if report.unchanged_since else "", report.outcome, f"Report: {report.report}"]
    return " ".join(filter(None, told))


def _tell(notify: "Notify", subject: str, body: str) -> None:
    try:
        notify(subject, body)
    except NotificationRefused as error:
        get_run_logger().warning("%s", one_line(error))
