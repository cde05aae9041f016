"""Padding features into batches."""

from types import SimpleNamespace

import pytest

from tasks.encoding.batches import padded
from tasks.encoding.packing import IGNORED


@pytest.mark.parametrize(
    ("lengths", "limit", "width"),
    [([3, 5], 64, 8), ([8, 2], 64, 8), ([9, 2], 64, 16), ([9, 2], 12, 12), ([20, 2], 12, 20)],
)
def test_a_batch_is_padded_to_a_multiple_of_8_within_the_limit(lengths: list[int], limit: int, width: int) -> None:
    features = [{"input_ids": [7] * length, "labels": [9] * length, "parts": [length]} for length in lengths]
    tokenizer = SimpleNamespace(pad_token_id=1, model_max_length=limit)
    batch = padded(features, tokenizer)  # type: ignore[arg-type]
    assert {name: values.tolist() for name, values in batch.items()} == {
        "input_ids": [[7] * length + [1] * (width - length) for length in lengths],
        "labels": [[9] * length + [IGNORED] * (width - length) for length in lengths],
        "attention_mask": [[1] * length + [0] * (width - length) for length in lengths],
    }
