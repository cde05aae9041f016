"""Tests of how often garbage is collected."""

import gc

import pytest

from tasks.compute.collector import few_collections
from tests.tasks.compute.commands import counted


def make_lists(count: int) -> list[list[int]]:
    return [[number] for number in range(count)]


def test_thousands_of_lists_cause_no_collection_meanwhile_and_do_after_it() -> None:
    gc.collect()
    with counted() as found, few_collections():
        make_lists(30_000)
    assert not found
    with counted() as found:
        make_lists(30_000)
    assert len(found) > 10


def test_cycles_are_still_collected() -> None:
    with counted() as found, few_collections():
        for _ in range(300_000):
            cycle: list[object] = []
            cycle.append(cycle)
    assert found


def test_an_error_leaves_the_collector_as_it_was() -> None:
    before = gc.get_threshold()
    with pytest.raises(ValueError, match="any"), few_collections():
        raise ValueError("any")
    assert gc.get_threshold() == before


def test_a_collector_that_is_off_stays_off_and_a_rarer_one_as_rare() -> None:
    before = gc.get_threshold()
    try:
        for first in (0, 200_000):
            gc.set_threshold(first)
            with few_collections():
                assert gc.get_threshold()[0] == first
    finally:
        gc.set_threshold(*before)
