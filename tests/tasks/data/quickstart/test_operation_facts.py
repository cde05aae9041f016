"""The quickstart datasets of several labels and of numbers: distinct texts with the facts of their operations."""

from collections import Counter
from typing import Any

import pytest
from botocore.loaders import Loader

from tasks.data.files import Part
from tasks.data.quickstart.operation_facts import MEMBERS, ROWS, VERBS, actions_part, required_part
from tasks.data.rows import fold


def read(part: Part) -> dict[str, tuple[str, Any]]:
    """Return operation to text and label."""
    return {
        operation: (text, label)
        for batch in part.read(["text", "label", "operation"])
        for text, label, operation in zip(batch["text"], batch["label"], batch["operation"], strict=True)
    }


@pytest.fixture(scope="module")
def actions() -> dict[str, tuple[str, Any]]:
    return read(actions_part())


@pytest.fixture(scope="module")
def required() -> dict[str, tuple[str, Any]]:
    return read(required_part())


def test_both_have_the_same_distinct_texts_of_six_words_or_more(
    actions: dict[str, tuple[str, Any]], required: dict[str, tuple[str, Any]]
) -> None:
    assert [text for text, _ in actions.values()] == [text for text, _ in required.values()]
    assert len(actions) == ROWS
    assert len({fold(text) for text, _ in actions.values()}) == ROWS
    assert min(len(text.split()) for text, _ in actions.values()) >= 6


def test_the_facts_are_those_that_botocore_knows(
    actions: dict[str, tuple[str, Any]], required: dict[str, tuple[str, Any]]
) -> None:
    models: dict[str, Any] = {}
    for operation, (_, label) in list(required.items())[:300]:
        service, name = operation.split(".")
        if service not in models:
            models[service] = Loader().load_service_model(service, "service-2")
        model = models[service]["operations"][name]
        shape = models[service]["shapes"][model["input"]["shape"]] if "input" in model else {}
        assert label == len(shape.get("required", []))
        assert ("in pages" in actions[operation][1]) >= bool({"NextToken", "nextToken", "Marker"} & set(shape.get("members", {})))
        assert ("with tags" in actions[operation][1]) >= bool({"Tags", "tags"} & set(shape.get("members", {})))
        assert ("reads" in actions[operation][1]) >= name.startswith(("Get", "List", "Describe"))
        assert ("removes" in actions[operation][1]) >= name.startswith("Delete")


def test_every_label_is_frequent_enough_to_be_learnt_and_rare_enough_to_be_told(actions: dict[str, tuple[str, Any]]) -> None:
    counts = Counter(name for _, label in actions.values() for name in label)
    assert set(counts) == {*VERBS, *MEMBERS}
    assert all(0.05 * ROWS < count < 0.6 * ROWS for count in counts.values()), counts
    sizes = Counter(len(label) for _, label in actions.values())
    assert sizes[0] > 0.02 * ROWS
    assert sizes[2] > 0.2 * ROWS


def test_numbers_vary(required: dict[str, tuple[str, Any]]) -> None:
    counts = Counter(label for _, label in required.values())
    assert max(counts.values()) < 0.5 * ROWS
    assert sum(count > 0.02 * ROWS for count in counts.values()) >= 5


def test_rows_are_the_same_each_time(actions: dict[str, tuple[str, Any]]) -> None:
    assert list(read(actions_part()).items()) == list(actions.items())
