"""The order of the training rows: random, with rows of like length side by side, and the same whenever it is asked for."""

from collections.abc import Iterator

import numpy as np
import torch

from tasks.kinds.kind import Array

# Rows are grouped by length within so many batches: enough to pad little, few enough to keep the order random.
_BATCHES_PER_GROUP = 50


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """Random order, with rows of like length side by side.

    The order depends on (seed, epoch) alone: one drawn from the global generator would shift with every dropout mask, and
    training could not be repeated from its middle.
    """

    def __init__(self, lengths: Array, batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order; Trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))
        group = self.batch_size * _BATCHES_PER_GROUP
        batches: list[Array] = []
        for start in range(0, len(order), group):
            rows = order[start : start + group]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += [rows[at : at + self.batch_size] for at in range(0, len(rows), self.batch_size)]
        # A batch that is not full comes last, else it would shift the borders of all after it.
        short = [batch for batch in batches if len(batch) < self.batch_size]
        full = [batch for batch in batches if len(batch) == self.batch_size]
        for position in rng.permutation(len(full)):
            yield from full[position].tolist()
        for batch in short:
            yield from batch.tolist()
