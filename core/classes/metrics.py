"""Means over an evaluation: every sample counts once, whatever its batch and its rank."""

import torch.distributed as dist
from torch import Tensor


class SampleMeans:
    """Means of named numbers over all samples of all ranks. A rank that saw no samples adds nothing and waits for none.

    NeMo 3.0.0 averages over batches and ranks instead, so that a short last batch counts as much as a full one.
    """

    def __init__(self):
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, mean: Tensor, count: int) -> None:
        """Add the mean () over `count` samples."""
        self.sums[name] = self.sums.get(name, 0.0) + mean.detach().float() * count
        self.counts[name] = self.counts.get(name, 0) + count

    def pop(self) -> dict[str, float]:
        """The means, equal on all ranks, which all must call this. Starts over."""
        mine = {name: (float(total), self.counts[name]) for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        ranks = [mine]
        if dist.is_available() and dist.is_initialized():
            ranks = [None] * dist.get_world_size()
            dist.all_gather_object(ranks, mine)
        means = {}
        for name in sorted(set().union(*ranks)):
            totals, counts = zip(*(rank[name] for rank in ranks if name in rank))
            means[name] = sum(totals) / sum(counts)
        return means
