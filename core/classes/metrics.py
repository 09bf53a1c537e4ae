"""Means over an evaluation: every scored item counts once, whatever its batch and its rank."""

from torch import Tensor

from utils.ranks import from_all_ranks


class WeightedMeans:
    """Means of named numbers over an evaluation on all ranks. A rank that saw nothing adds nothing and waits for none.

    NeMo 3.0.0 averages over batches and ranks instead, so that a short last batch counts as much as a full one.
    """

    def __init__(self):
        self.sums: dict[str, Tensor] = {}
        self.weights: dict[str, int] = {}

    def add(self, name: str, mean: Tensor, weight: int) -> None:
        """Add the mean () over `weight` items; over none it is no number, and isn't looked at."""
        share = mean.detach().float() * weight if weight else 0.0
        self.sums[name] = self.sums.get(name, 0.0) + share
        self.weights[name] = self.weights.get(name, 0) + weight

    def pop(self) -> dict[str, float]:
        """The means, equal on all ranks, which all must call this; 0 where no item was scored. Starts over."""
        mine = {name: (float(total), self.weights[name]) for name, total in self.sums.items()}
        self.sums, self.weights = {}, {}
        ranks = from_all_ranks(mine)
        means = {}
        for name in sorted(set().union(*ranks)):
            totals, weights = zip(*(rank[name] for rank in ranks if name in rank))
            means[name] = sum(totals) / max(sum(weights), 1)
        return means
