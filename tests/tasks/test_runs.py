"""Runs found again by name or key, and stores that are not there. What they hold is tried with those who use them."""

import time
from pathlib import Path

import pytest

from blocks.artifact_store import LocalStore
from tasks.errors import ConfigError
from tasks.runs import find_run, listed, open_existing, runs_of
from tests.predicting import publish_run


def test_a_run_is_found_by_key_and_by_name_and_the_newest_come_first(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    first = publish_run(store, tmp_path, "m", "steps/fine-tune/a", run="one", number=1)
    time.sleep(1.1)  # when an artifact was published is known to the second
    second = publish_run(store, tmp_path, "m", "steps/fine-tune/b", run="two", number=2)
    publish_run(store, tmp_path, "other", "steps/fine-tune/c", run="three", number=3)
    assert runs_of(store, "m") == [second, first]
    for run in ("one", first, first.removeprefix("runs/")):
        assert find_run(store, "m", run).key == first
    with pytest.raises(ConfigError, match="Run 'three' is of the model 'other', not 'm'"):
        find_run(store, "m", "three")


def test_a_record_of_another_version_is_told(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_text("x")
    store.publish(tmp_path / "old", "runs/old-00000001", {"name": "m", "flow_run": "old"})
    with pytest.raises(ConfigError, match="Run 'old' was made by another version of finetune-flows"):
        find_run(store, "m", "old")


def test_many_keys_are_cut_short() -> None:
    assert listed(["a", "b"]) == "'a', 'b'"
    assert listed([str(number) for number in range(7)]).endswith("'4' and 2 more")


def test_a_store_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Store '.*none' is not there"):
        open_existing(str(tmp_path / "none"))
