"""Padding keeps what is said of a token with that token, whichever side the pads are on, and takes no more than the model."""

from types import SimpleNamespace
from typing import Any

import pytest

from tasks.encoding.padding import IGNORED, TOKEN_LABELS, padded


def tokenizer(limit: int = 64, pad: int = 1) -> Any:
    return SimpleNamespace(pad_token_id=pad, pad_token_type_id=2, model_max_length=limit)


def lists(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: values.tolist() for name, values in batch.items()}


@pytest.mark.parametrize(
    ("lengths", "limit", "width"),
    [
        ([3, 5], 64, 8),
        ([8, 2], 64, 8),
        ([9, 2], 64, 16),
        ([9, 2], 12, 12),  # the model takes no multiple of 8
        ([20, 2], 12, 20),  # a row is never cut here
    ],
)
def test_a_batch_is_padded_to_a_multiple_of_8_within_the_limit(lengths: list[int], limit: int, width: int) -> None:
    features = [{"input_ids": [7] * length, "labels": [9] * length, "parts": [length]} for length in lengths]
    assert lists(padded(features, tokenizer(limit), fills=TOKEN_LABELS)) == {
        "input_ids": [[7] * length + [1] * (width - length) for length in lengths],
        "attention_mask": [[1] * length + [0] * (width - length) for length in lengths],
        "labels": [[9] * length + [IGNORED] * (width - length) for length in lengths],
    }


@pytest.mark.parametrize(("multiple", "width"), [(1, 9), (2, 10), (4, 12), (16, 16)])
def test_the_multiple_is_as_asked_for(multiple: int, width: int) -> None:
    features = [{"input_ids": [7] * 9}, {"input_ids": [7] * 4}]
    assert lists(padded(features, tokenizer(), multiple)) == {
        "input_ids": [[7] * 9 + [1] * (width - 9), [7] * 4 + [1] * (width - 4)],
        "attention_mask": [[1] * 9 + [0] * (width - 9), [1] * 4 + [0] * (width - 4)],
    }


def test_padding_is_masked_by_length_even_where_it_is_the_end_token() -> None:
    batch = lists(padded([{"input_ids": [5, 6, 3]}, {"input_ids": [7]}], tokenizer(pad=3)))
    assert batch["input_ids"] == [[5, 6, 3, 3, 3, 3, 3, 3], [7, 3, 3, 3, 3, 3, 3, 3]]
    assert batch["attention_mask"] == [[1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]]


def test_a_target_has_a_length_of_its_own() -> None:
    batch = padded([{"input_ids": [5] * 9, "labels": [6]}], tokenizer(), fills=TOKEN_LABELS)
    assert (batch["input_ids"].shape, batch["labels"].tolist()) == ((1, 16), [[6, *[IGNORED] * 7]])


def test_token_types_are_padded_with_their_own_number() -> None:
    assert padded([{"input_ids": [5, 6], "token_type_ids": [0, 1]}], tokenizer())["token_type_ids"].tolist() == [[0, 1, *[2] * 6]]


@pytest.mark.parametrize("left", [True, False])
def test_numbers_and_positions_stay_with_their_tokens(left: bool) -> None:
    features = [
        {"input_ids": [10, 11, 12], "char_starts": [-1, 7, 9], "null_position": 2},
        {"input_ids": [20, 21, 22, 23, 24], "char_starts": [-1, 1, 2, 3, -1], "null_position": 0},
    ]
    fills, positions = {"char_starts": -1, "char_ends": -1}, ("null_position", "start_positions")
    batch = padded(features, tokenizer(), fills=fills, positions=positions, left=left)
    assert set(batch) == {"input_ids", "attention_mask", "char_starts", "null_position"}
    assert batch["input_ids"].shape == (2, 8)
    for row, feature in enumerate(features):
        there = batch["attention_mask"][row].bool()
        assert there[-1] == left
        assert batch["input_ids"][row][there].tolist() == feature["input_ids"]
        assert batch["char_starts"][row][there].tolist() == feature["char_starts"]
        assert set(batch["char_starts"][row][~there].tolist()) == {-1}
        assert batch["input_ids"][row][batch["null_position"][row]] == feature["input_ids"][feature["null_position"]]


def test_a_decoder_has_room_left_for_what_it_is_to_write() -> None:
    assert padded([{"input_ids": [5] * 7}], tokenizer(10), room=3)["input_ids"].shape == (1, 7)
    assert padded([{"input_ids": [5] * 7}], tokenizer(10))["input_ids"].shape == (1, 8)
