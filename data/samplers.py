"""Which utterances a rank sees in an epoch, and in which order."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset, DistributedSampler


class Draw(NamedTuple):
    """What a sampler asks a data set for. The epoch travels with the index, so workers need not be told of it.

    index: of the utterance; None: nothing is left for this rank, and collate leaves the item out. That keeps the
        number of batches equal on all ranks without showing an utterance twice.
    """

    epoch: int
    index: int | None


class EpochSampler(DistributedSampler):
    """Each utterance once per epoch over all ranks, in an order that depends on (seed, epoch) alone.

    Lightning tells it the epoch through `set_epoch`, and leaves a DistributedSampler in place as it is.
    torch's own repeats the first utterances to fill the last ranks; this one gives those ranks an empty draw.

    drop_last: leave out the utterances that don't divide among the ranks (others in each epoch when shuffled).
    fixed_epoch: always draw as in epoch 0, so that an evaluation has the same noise each time.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        shuffle: bool,
        seed: int,
        drop_last: bool,
        fixed_epoch: bool = False,
        global_rank: int = 0,
        world_size: int = 1,
    ):
        super().__init__(dataset, world_size, global_rank, shuffle=shuffle, seed=seed, drop_last=drop_last)
        self.fixed_epoch = fixed_epoch

    def set_epoch(self, epoch: int) -> None:
        if not self.fixed_epoch:
            self.epoch = epoch

    def __len__(self) -> int:
        total = len(self.dataset)
        return total // self.num_replicas if self.drop_last else -(-total // self.num_replicas)

    def __iter__(self) -> Iterator[Draw]:
        mine = self.order()[self.rank :: self.num_replicas][: len(self)]
        for index in mine:
            yield Draw(self.epoch, int(index))
        for _ in range(len(self) - len(mine)):
            yield Draw(self.epoch, None)

    def order(self) -> np.ndarray:
        """(number of utterances,) indices of this epoch, the same on every rank."""
        total = len(self.dataset)
        if not self.shuffle:
            return np.arange(total)
        # utterance i draws from (seed, epoch, i), i < total: `total` is the first stream nobody uses
        return np.random.default_rng((self.seed, self.epoch, total)).permutation(total)
