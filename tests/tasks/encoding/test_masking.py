"""Masks: the shares of BERT's paper, and the same whenever they are asked for."""

from collections import Counter

import numpy as np
import pytest
import torch

from tasks.encoding.masking import mask
from tasks.encoding.padding import IGNORED

OPTIONS = {"mask_id": 4, "vocabulary": 1000, "special": {0, 2, 3, 4}}


def test_shares_are_those_of_the_paper() -> None:
    fates: Counter[str] = Counter()
    ids = [2, *range(100, 300), 3]
    for row in range(300):
        read, labels = mask(ids, seed=(1, 0, row), **OPTIONS)
        hidden = [place for place, label in enumerate(labels) if label != IGNORED]
        assert len(hidden) == 30
        for place in range(len(ids)):
            if place not in hidden:
                assert read[place] == ids[place]
        for place in hidden:
            assert labels[place] == ids[place]
            fates["mask" if read[place] == 4 else "same" if read[place] == ids[place] else "random"] += 1
    total = sum(fates.values())
    assert fates["mask"] / total == pytest.approx(0.8, abs=0.01)
    assert fates["random"] / total == pytest.approx(0.1, abs=0.01)
    assert fates["same"] / total == pytest.approx(0.1, abs=0.01)


def test_every_place_is_hidden_at_some_time_but_special_tokens_never() -> None:
    ids = [2, 10, 11, 0, 12, 13, 3]
    seen = {place for row in range(200) for place, label in enumerate(mask(ids, seed=(row,), **OPTIONS)[1]) if label != IGNORED}
    assert seen == {1, 2, 4, 5}


@pytest.mark.parametrize(
    ("ids", "count"), [([2, 3], 0), ([2, 9, 3], 1), ([2, *range(10, 15), 3], 1), ([2, *range(10, 22), 3], 2)]
)
def test_a_short_text_has_one_hidden_token_if_any(ids: list[int], count: int) -> None:
    read, labels = mask(ids, seed=(0,), **OPTIONS)
    assert sum(label != IGNORED for label in labels) == count
    assert len(read) == len(labels) == len(ids)


def test_the_seed_alone_decides() -> None:
    ids = [2, *range(100, 164), 3]
    first = mask(ids, seed=(7, 1, 5), **OPTIONS)
    np.random.seed(3)
    torch.manual_seed(3)
    state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert mask(ids, seed=(7, 1, 5), **OPTIONS) == first
    assert np.array_equal(state, np.random.get_state()[1])
    assert torch.equal(torch_state, torch.get_rng_state())
    others = [mask(ids, seed=seed, **OPTIONS)[1] for seed in ((8, 1, 5), (7, 2, 5), (7, 1, 6))]
    assert all(other != first[1] for other in others)
