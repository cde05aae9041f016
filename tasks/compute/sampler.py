"""The order of the training rows: random, with rows of like length side by side, and the same whenever it is asked for."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch

from tasks.kinds.kind import Array

# Rows are grouped by length within at most so many batches: enough to pad little, few enough to keep the order random.
_BATCHES_PER_GROUP = 50


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """Random order, with rows of like length side by side.

    The order depends on (seed, epoch) alone: one drawn from the global generator would shift with every dropout mask, and
    training could not be repeated from its middle.
    """

    def __init__(self, lengths: Array, batch_size: int, seed: int, on_epoch: Callable[[int], None] | None = None) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch, self.on_epoch = lengths, batch_size, seed, 0, on_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order; Trainer calls it."""
        self.epoch = epoch
        if self.on_epoch is not None:
            self.on_epoch(epoch)

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))
        # Groups of one size, or nearly: one that was left over would be padded more than the others.
        count = math.ceil(len(order) / self.batch_size)
        group = self.batch_size * math.ceil(count / math.ceil(count / _BATCHES_PER_GROUP))
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


class RankBatches(torch.utils.data.Sampler[list[int]]):
    """One process's rows of each batch, in parts of at most `micro_batch` rows that are computed at once.

    Of a batch, process `rank` takes every `count`-th row. All get as many parts, since each exchange of gradients wants them all:
    who has no row left for a part gets the batch's first once more, which must count for nothing.
    """

    def __init__(self, order: LengthGroupedSampler, micro_batch: int, rank: int, count: int) -> None:
        self.order, self.micro_batch, self.rank, self.count = order, micro_batch, rank, count

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order; the data loader and Trainer call it."""
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        full, rest = divmod(len(self.order), self.order.batch_size)
        return full * self._parts(self.order.batch_size) + self._parts(rest)

    def __iter__(self) -> Iterator[list[int]]:
        rows = list(self.order)
        for start in range(0, len(rows), self.order.batch_size):
            batch = rows[start : start + self.order.batch_size]
            mine = batch[self.rank :: self.count]
            for part in range(self._parts(len(batch))):
                yield mine[part * self.micro_batch : (part + 1) * self.micro_batch] or batch[:1]

    def _parts(self, rows: int) -> int:
        """Return the parts of a batch of so many rows, in the process that has most of them."""
        return math.ceil(math.ceil(rows / self.count) / self.micro_batch)
