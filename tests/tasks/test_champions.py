"""Tests of what a store says of a name: its champion, what became of each run's model, and who wins a race."""

from pathlib import Path
from typing import Any

import pytest

from blocks.artifact_store import LocalStore
from blocks.errors import PointerChanged, StoreConfigError
from tasks.champions import CHAMPIONS_KEPT, TICKS_KEPT, Champion, Registry, Tick, check_fits, read_registry, write_registry
from tasks.errors import ConfigError
from tasks.kinds.text_classification import TextClassificationConfig
from tasks.retention import references

EMPTY = Registry(kind="text-classification", primary_metric="accuracy")


def champion(run: str) -> Champion:
    key = f"steps/fine-tune/{run}"
    made = {"run": run, "run_id": f"id-{run}", "report": f"runs/{run}", "scores": f"steps/e/{run}", "digest": run}
    return Champion(key=key, since="2026-01-01", calibration={}, **made)


def tick(run: str, outcome: Any = "held", model: str | None = None, weights: str = "") -> Tick:
    return Tick(
        weights=weights,
        **{"at": "2026-01-01", "outcome": outcome, "reasons": ["because"], "run": run, "run_id": f"id-{run}"},
        **{"model": model or run, "metric": "accuracy", "untouched": 0.1, "challenger": 0.9, "rows": 10, "test": "t"},
    )


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert read_registry(store, "m") == (None, None)
    registry = EMPTY.after(tick("a", "first champion"), champion("a")).after(tick("b"))
    write_registry(store, "m", registry, None)
    found, version = read_registry(store, "m")
    assert found == registry
    assert version is not None
    assert found.champion == champion("a")
    assert [one.outcome for one in found.ticks] == ["first champion", "held"]


def test_of_two_that_decided_on_the_same_state_one_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for run in ("a", "b"):
        _, version = read_registry(store, "m")
        if run == "a":
            stale = version
        write_registry(store, "m", EMPTY.after(tick(run), champion(run)), version)
    with pytest.raises(PointerChanged):
        write_registry(store, "m", EMPTY.after(tick("c"), champion("c")), stale)
    found, _ = read_registry(store, "m")
    assert found is not None
    assert found.champion == champion("b")


def test_a_run_meets_the_champion_before_the_one_that_it_made_itself() -> None:
    registry = EMPTY.after(tick("a", "first champion"), champion("a")).after(tick("b", "promoted"), champion("b"))
    assert registry.met_by("id-b") == champion("a")
    assert registry.met_by("id-a") == champion("b")
    assert registry.met_by("id-c") == champion("b")
    assert EMPTY.met_by("id-c") is None
    assert registry.tick_of("id-b") == tick("b", "promoted")
    assert registry.tick_of("id-c") is None
    assert registry.tick_of("") is None


@pytest.mark.parametrize("weights", ["a", ""])
def test_a_model_that_was_taken_back_is_known_until_it_is_promoted_again(weights: str) -> None:
    back = EMPTY.after(tick("a", "first champion"), champion("a"))
    back = back.after(tick("by hand", "rolled back", model="a", weights=weights))
    assert back.rolled_back(champion("a")) is not None
    assert back.rolled_back(champion("b")) is None
    assert back.after(tick("by hand", "promoted", model="a", weights=weights)).rolled_back(champion("a")) is None


def test_a_model_that_was_taken_back_is_known_by_its_weights_whatever_training_made_it() -> None:
    back = EMPTY.after(tick("by hand", "rolled back", model="a", weights="a"))
    again = champion("a").model_copy(update={"key": "steps/fine-tune/another"})
    assert back.rolled_back(again) is not None
    assert back.after(tick("by hand", "promoted", model="another", weights="a")).rolled_back(champion("a")) is None
    assert back.rolled_back(champion("a").model_copy(update={"digest": "other weights"})) is None


def test_history_from_before_weights_were_kept_is_read(tmp_path: Path) -> None:
    registry = EMPTY.after(tick("a", "rolled back"), champion("b")).model_dump(mode="json")
    del registry["ticks"][0]["weights"]
    LocalStore(tmp_path).swap_pointer("m", registry, None)
    found, _ = read_registry(LocalStore(tmp_path), "m")
    assert found is not None
    assert found.rolled_back(champion("a")) is not None


def test_history_is_bounded_and_the_store_keeps_the_artifacts_of_champions_alone() -> None:
    registry = EMPTY
    for number in range(CHAMPIONS_KEPT + 3):
        registry = registry.after(tick(f"m{number}", "promoted"), champion(f"m{number}"))
    assert len(registry.champions) == CHAMPIONS_KEPT
    for number in range(TICKS_KEPT + 5):
        registry = registry.after(tick(f"h{number}"))
    assert len(registry.ticks) == TICKS_KEPT
    kept = references(registry.model_dump(mode="json"))
    last = f"m{CHAMPIONS_KEPT + 2}"
    assert {f"steps/fine-tune/{last}", f"steps/e/{last}", f"runs/{last}"} <= kept
    assert len(kept) == 3 * CHAMPIONS_KEPT


def test_a_name_is_of_one_kind_of_model_and_one_metric() -> None:
    config = TextClassificationConfig(name="m")
    check_fits(EMPTY, "text-classification", config)
    with pytest.raises(ConfigError, match="under the name 'm'; this one is of text-classification, judged by r2: set name"):
        check_fits(EMPTY, "text-classification", config.model_copy(update={"problem": "regression"}))


def test_a_pointer_of_something_else_is_refused(tmp_path: Path) -> None:
    LocalStore(tmp_path).swap_pointer("m", {"other": 1}, None)
    with pytest.raises(StoreConfigError, match="Pointer 'm' of the store is not one of champions"):
        read_registry(LocalStore(tmp_path), "m")
