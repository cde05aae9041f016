"""Tests of what a run tells a notification block."""

from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.webhook import Webhook

from flows.experiments import text_classification
from flows.notifying import notifying
from tasks.config import ExperimentConfig
from tasks.errors import ConfigError, Preempted, TimeLimitExceeded
from tasks.kinds.text_classification import TextClassificationConfig
from tasks.records import Report
from tests.webhook import Service


@pytest.fixture
def block(prefect_api: str, kept_compute: Any, service: Service) -> str:
    save: Any = Webhook(url=service.url).save
    save("told", overwrite=True, _sync=True)
    return "block:webhook/told"


def config(store: Path, source: Path, model: Path, notify: str, **training: Any) -> TextClassificationConfig:
    return TextClassificationConfig.model_validate(
        {
            **{"name": "topics", "store": str(store), "notify": notify, "data": {"source": str(source)}},
            **{"model": {"name": str(model)}, "training": {"learning_rate": 0.01, "max_length": 32} | training},
        }
    )


def test_a_run_tells_its_outcome_that_nothing_changed_and_its_error(
    block: str, service: Service, tmp_path: Path, topics_csv: Path, encoder: Path
) -> None:
    settings = config(tmp_path, topics_csv, encoder, block)
    report = text_classification(settings)
    (told,) = service.got
    lines = told["text"].splitlines()
    assert lines[0] == f"topics: run {report.flow_run} completed"
    assert lines[1] == f"{report.outcome} Report: {report.report}"
    before, after = report.before["accuracy"], report.after["accuracy"]
    assert f"is {after:.3f} after fine-tuning and {before:.3f} before, a difference of " in report.outcome

    # What the service refuses is no fault of the run's.
    service.status = 500
    again = text_classification(settings)
    assert service.got[1]["text"].splitlines()[1].startswith(f"Nothing changed since {report.flow_run}: ")
    assert again.after == report.after

    service.status = 200
    with pytest.raises(TimeLimitExceeded):
        text_classification(config(tmp_path, topics_csv, encoder, block, time_limit_s=0.01, epochs=3))
    lines = service.got[2]["text"].splitlines()
    assert lines[0].startswith("topics: run ")
    assert lines[0].endswith(" failed")
    assert lines[1].startswith("Command 'train' did not end within its limit of 0.01 s")


def test_a_run_that_goes_on_later_says_nothing(block: str, service: Service, tmp_path: Path) -> None:
    def stop(kind_name: str, config: ExperimentConfig) -> Report:
        raise Preempted("Stopped as asked")

    with pytest.raises(Preempted):
        notifying(stop)("text-classification", ExperimentConfig(notify=block, store=str(tmp_path)))
    assert service.got == []


def test_a_block_that_is_not_there_ends_the_run_before_it_begins(
    prefect_api: str, tmp_path: Path, topics_csv: Path, encoder: Path
) -> None:
    with pytest.raises(ConfigError, match=r"^Block 'webhook/none' cannot be loaded"):
        text_classification(config(tmp_path / "store", topics_csv, encoder, "block:webhook/none"))
    assert not (tmp_path / "store").exists()
