"""How the compute process's events reach people: lines in the run's log, and a progress artifact in the Prefect UI."""

import logging
import time
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from tasks.text import duration, one_line

LOG_INTERVAL_S = 10.0
PROGRESS_LOGGER = "finetune_flows.progress"
"""Gets every progress event, as `record.progress`: for a terminal's bar. The run's log gets one every `LOG_INTERVAL_S`."""
ARTIFACT_INTERVAL_S = 5.0


_every_event = logging.getLogger(PROGRESS_LOGGER)


class EventSink:
    """Passes the `log` and `progress` events of a step on."""

    def __init__(self, step: str, *, artifact: bool = False) -> None:
        self.step = step
        self._logger = get_run_logger()
        self._wants_artifact = artifact
        self._artifact: Any = None
        self._next_log = self._next_artifact = 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        """Handle one event."""
        if event["event"] == "log":
            self._logger.log(int(event["level"]), "%s", one_line(event["message"]))
        elif event["event"] == "progress":
            self._progress(event)

    def _progress(self, event: dict[str, Any]) -> None:
        now = time.monotonic()
        ended = event["done"] >= event["total"]
        shown = {"progress": {**event, "step": self.step}}
        _every_event.debug("%s", describe(event), extra=shown)
        if ended or now >= self._next_log:
            self._next_log = now + LOG_INTERVAL_S
            self._logger.info("%s", describe(event), extra=shown)
        if self._wants_artifact and (ended or now >= self._next_artifact):
            self._next_artifact = now + ARTIFACT_INTERVAL_S
            percent = 100.0 * event["done"] / max(1, event["total"])
            if self._artifact is None:
                self._artifact = create_progress_artifact(percent, key=f"{self.step}-progress", description=describe(event))
            else:
                update_progress_artifact(self._artifact, percent, description=describe(event))


def describe(event: dict[str, Any]) -> str:
    """Return a progress event in words."""
    words = [f"{event['done']}/{event['total']}"]
    if "epoch" in event:
        words = [f"step {words[0]}", f"epoch {event['epoch']:.2f}"]
    for name, text in (("loss", "loss {:.4f}"), ("learning_rate", "learning rate {:.2e}"), ("rows_per_s", "{:.1f} rows/s")):
        if event.get(name) is not None:
            words.append(text.format(event[name]))
    if event.get("time_left_s") is not None:
        words.append(f"{duration(event['time_left_s'])} left")
    return ", ".join(words)
