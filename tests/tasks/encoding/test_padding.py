"""Padding keeps what is said of a token with that token, on whichever side the pads are."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tasks.encoding.padding import padder
from tests.helpers import make_encoder


@pytest.mark.parametrize("side", ["left", "right"])
def test_numbers_and_positions_stay_with_their_tokens(tmp_path: Path, side: str) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(make_encoder(tmp_path), padding_side=side)
    pad = padder(tokenizer, per_token=("char_starts",), positions=("null_position",), fill=-1)
    features = [
        {"input_ids": [10, 11, 12], "char_starts": [-1, 7, 9], "null_position": 2},
        {"input_ids": [20, 21, 22, 23, 24], "char_starts": [-1, 1, 2, 3, -1], "null_position": 0},
    ]
    batch = pad(features)
    assert batch["input_ids"].shape == (2, 8)
    for row, feature in enumerate(features):
        there = batch["attention_mask"][row].bool()
        assert batch["input_ids"][row][there].tolist() == feature["input_ids"]
        assert batch["char_starts"][row][there].tolist() == feature["char_starts"]
        assert set(batch["char_starts"][row][~there].tolist()) == {-1}
        assert batch["input_ids"][row][batch["null_position"][row]] == feature["input_ids"][feature["null_position"]]


def test_windows_are_not_padded_beyond_the_models_limit(tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(make_encoder(tmp_path, positions=13))
    pad = padder(tokenizer, per_token=(), positions=("start_positions",), fill=-1)
    assert pad([{"input_ids": [4] * 11, "start_positions": 1}])["input_ids"].shape == (1, 13)
