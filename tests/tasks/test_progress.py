"""Progress: what a run's log and the Prefect UI are told of a step's events."""

import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact

from tasks import progress
from tasks.progress import PROGRESS_LOGGER, EventSink, describe


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"done": 3, "total": 9}, "3/9"),
        ({"done": 0, "total": 0, "rows_per_s": 12.345}, "0/0, 12.3 rows/s"),
        (
            {"done": 3, "total": 9, "epoch": 0.3333, "loss": 1.23456, "learning_rate": 0.000123, "time_left_s": 130.0},
            "step 3/9, epoch 0.33, loss 1.2346, learning rate 1.23e-04, 2 min left",
        ),
        ({"done": 9, "total": 9, "loss": None, "time_left_s": 0.0}, "9/9, 0 s left"),
        ({"done": 9, "total": 9, "loss": math.nan}, "9/9, loss nan"),
    ],
)
def test_an_event_in_words(event: dict[str, Any], words: str) -> None:
    assert describe({"event": "progress", **event}) == words


class Collector(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def collect() -> Iterator[Any]:
    """Return a function that collects the records of a logger of the given name and level."""
    added = []

    def start(name: str, level: int) -> Collector:
        collector, logger = Collector(), logging.getLogger(name)
        added.append((logger, collector, logger.level))
        logger.addHandler(collector)
        logger.setLevel(level)
        return collector

    yield start
    for logger, collector, level in added:
        logger.removeHandler(collector)
        logger.setLevel(level)


def steps(*done: int, total: int = 5) -> list[dict[str, Any]]:
    return [{"event": "progress", "done": number, "total": total} for number in done]


def send(events: list[dict[str, Any]], step: str = "fine-tune", *, artifact: bool = False) -> None:
    """Pass events on in a flow run."""

    @flow
    def passes_events_on() -> None:
        sink = EventSink(step, artifact=artifact)
        for event in events:
            sink(event)

    passes_events_on()


def artifacts(key: str) -> list[Artifact]:
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize(("interval", "expected"), [(math.inf, ["1/5", "5/5"]), (0.0, ["1/5", "2/5", "3/5", "5/5"])])
def test_the_log_gets_a_line_an_interval_and_the_last_one(
    monkeypatch: pytest.MonkeyPatch, collect: Any, interval: float, expected: list[str]
) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", interval)
    log, every = collect("prefect.flow_runs", logging.INFO), collect(PROGRESS_LOGGER, logging.DEBUG)
    send(steps(1, 2, 3, 5))
    told = [record for record in log.records if hasattr(record, "progress")]
    assert [record.getMessage() for record in told] == expected
    assert {record.levelname for record in told} == {"INFO"}
    assert [record.progress for record in every.records] == [{**event, "step": "fine-tune"} for event in steps(1, 2, 3, 5)]


@pytest.mark.usefixtures("prefect_api")
def test_a_log_event_is_one_line_of_its_level(collect: Any) -> None:
    log = collect("prefect.flow_runs", logging.INFO)
    send([{"event": "log", "level": logging.WARNING, "message": "100 %s\nsure"}, {"event": "other"}])
    assert [record.getMessage() for record in log.records if record.levelname == "WARNING"] == ["100 %s sure"]


@pytest.mark.usefixtures("prefect_api")
def test_the_ui_shows_the_last_state_whatever_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "ARTIFACT_INTERVAL_S", math.inf)
    send(steps(1, 2, 5), "finished", artifact=True)
    (artifact,) = artifacts("finished-progress")
    assert (artifact.type, artifact.description) == ("progress", "5/5")
    assert float(str(artifact.data)) == 100.0


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize(("interval", "percent", "description"), [(math.inf, 20.0, "1/5"), (0.0, 60.0, "3/5")])
def test_the_ui_is_told_an_interval(monkeypatch: pytest.MonkeyPatch, interval: float, percent: float, description: str) -> None:
    monkeypatch.setattr(progress, "ARTIFACT_INTERVAL_S", interval)
    step = f"unfinished-{int(percent)}"
    send(steps(1, 3), step, artifact=True)
    (artifact,) = artifacts(f"{step}-progress")
    assert (float(str(artifact.data)), artifact.description) == (percent, description)


@pytest.mark.usefixtures("prefect_api")
def test_no_artifact_is_made_unless_wanted() -> None:
    send(steps(1, 5), "unwanted")
    assert artifacts("unwanted-progress") == []
