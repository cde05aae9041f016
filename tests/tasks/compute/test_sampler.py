"""Tests of the order of the training rows: random, grouped by length, and the same whenever it is asked for."""

import numpy as np
import pytest
import torch

from tasks.compute.sampler import LengthGroupedSampler, RankBatches

LENGTHS = np.random.default_rng(0).integers(3, 100, 2_003)


def order(seed: int, epoch: int) -> list[int]:
    sampler = LengthGroupedSampler(LENGTHS, 16, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def padded(rows: list[int]) -> int:
    batches = [LENGTHS[rows[start : start + 16]] for start in range(0, len(rows), 16)]
    return sum(int(batch.max()) * len(batch) for batch in batches)


def test_the_sampler_gives_every_row_once_in_an_order_of_seed_and_epoch_alone() -> None:
    first = order(1, 0)
    assert sorted(first) == list(range(2_003))
    assert len(LengthGroupedSampler(LENGTHS, 16, 1)) == 2_003
    torch.manual_seed(5)
    assert order(1, 0) == first
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1, 2)}) == 6


def test_the_sampler_pads_little_and_keeps_batches_in_random_order() -> None:
    grouped, random = order(1, 0), np.random.default_rng(0).permutation(2_003).tolist()
    assert padded(grouped) < 1.1 * LENGTHS.sum()
    assert padded(random) > 1.5 * LENGTHS.sum()
    means = np.array([LENGTHS[grouped[start : start + 16]].mean() for start in range(0, 2_000, 16)])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3


@pytest.mark.parametrize("rows", [816, 832, 1_700])
def test_no_rows_are_left_over_that_differ_more_in_length_than_all_others(rows: int) -> None:
    order = list(LengthGroupedSampler(LENGTHS[:rows], 16, 1))
    batches = [LENGTHS[order[start : start + 16]] for start in range(0, rows, 16)]
    assert max(np.ptp(batch) for batch in batches) < 12


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 799, 800])
def test_the_short_batch_comes_last(rows: int) -> None:
    # Batches of rows of one length each: were a short one in the middle, later batches would mix lengths.
    lengths = np.repeat(np.arange(rows // 16 + 1), 16)[:rows]
    order = list(LengthGroupedSampler(lengths, 16, 3))
    assert sorted(order) == list(range(rows))
    for start in range(0, rows, 16):
        assert len(set(lengths[order[start : start + 16]].tolist())) == 1


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("rows", [1, 3, 15, 16, 17, 18, 95, 100])
def test_processes_share_the_batches_of_one(rows: int, count: int, micro_batch: int) -> None:
    def sampler() -> LengthGroupedSampler:
        made = LengthGroupedSampler(LENGTHS[:rows], 16, 3)
        made.set_epoch(1)
        return made

    order = list(sampler())
    shares = [RankBatches(sampler(), micro_batch, rank, count) for rank in range(count)]
    parts = [list(share) for share in shares]
    # All come to each exchange of gradients.
    assert {len(share) for share in shares} == {len(mine) for mine in parts} == {len(parts[0])}
    assert all(0 < len(part) <= micro_batch for mine in parts for part in mine)
    per_batch = -(-16 // count // micro_batch)
    for start in range(0, rows, 16):
        batch = order[start : start + 16]
        taken = [[row for part in mine[start // 16 * per_batch :][:per_batch] for row in part] for mine in parts]
        assert set().union(*taken) == set(batch)
        # Rows come twice only for company, where the last batch has none left for a part.
        if len(batch) == 16:
            assert sum(map(len, taken)) == 16
        for rank, mine in enumerate(taken):
            assert mine[: len(batch[rank::count])] == batch[rank::count]


def test_processes_follow_the_epochs_together() -> None:
    shares = [RankBatches(LengthGroupedSampler(LENGTHS, 16, 3), 4, rank, 2) for rank in (0, 1)]
    epochs = []
    for epoch in (0, 1):
        for share in shares:
            share.set_epoch(epoch)
        epochs.append([list(share) for share in shares])
    assert epochs[0] != epochs[1]
