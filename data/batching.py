"""How the utterances of an epoch become batches: a fixed number, or utterances of similar length together.

An epoch is a plan: a list of batches for all ranks together. It depends on the order and a random generator, so on
(seed, epoch), and never on ranks or their number, unless the order does (`tarred_shard_strategy: replicate`, see
`data/ssl_dataset.py`). Plans are arrays; a million utterances are planned in half a second.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

DEFAULT_NUM_BUCKETS = 30  # as NeMo's lhotse loader


@dataclass(frozen=True)
class Plan:
    """The batches of an epoch, in order.

    indices: (M,) utterances. ends: (K,) batch k is `indices[ends[k - 1] : ends[k]]`, never empty.
    """

    indices: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.ends)

    def places(self, k: int) -> range:
        """Where the utterances of batch k stand in `indices`."""
        return range(int(self.ends[k - 1]) if k else 0, int(self.ends[k]))

    def __add__(self, other: "Plan") -> "Plan":
        ends = np.concatenate([self.ends, other.ends + len(self.indices)])
        return Plan(np.concatenate([self.indices, other.indices]), ends)

    def first(self, count: int) -> "Plan":
        """The first `count` batches."""
        ends = self.ends[:count]
        return Plan(self.indices[: ends[-1] if len(ends) else 0], ends)

    def reordered(self, batches: np.ndarray) -> "Plan":
        """The same batches in another order. batches: (K,) a permutation."""
        sizes = np.diff(self.ends, prepend=0)
        starts, sizes = (self.ends - sizes)[batches], sizes[batches]
        ends = np.cumsum(sizes)
        return Plan(self.indices[np.repeat(starts - (ends - sizes), sizes) + np.arange(len(self.indices))], ends)

    def turns(self) -> np.ndarray:
        """(M,) int32: how often the utterance at this place came before."""
        if np.bincount(self.indices).max(initial=0) <= 1:
            return np.zeros(len(self.indices), np.int32)
        by_index = np.argsort(self.indices, kind="stable")
        is_first = np.diff(self.indices[by_index], prepend=-1) != 0
        firsts = np.flatnonzero(is_first)
        turns = np.empty(len(self.indices), np.int32)
        turns[by_index] = np.arange(len(self.indices)) - firsts[np.cumsum(is_first) - 1]
        return turns


Batching = Callable[[np.ndarray, np.random.Generator], Plan]  # order of the epoch (M,), what to shuffle batches with


@dataclass(frozen=True)
class FixedSize:
    """`batch_size` utterances, as they come. drop_last: without the last batch if it isn't full."""

    batch_size: int
    drop_last: bool = False

    def __call__(self, order: np.ndarray, rng: np.random.Generator) -> Plan:
        num_batches = len(order) // self.batch_size if self.drop_last else -(-len(order) // self.batch_size)
        return Plan(order, np.minimum(self.batch_size * np.arange(1, num_batches + 1), len(order)))


def _bucket_by_bucket(buckets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.argsort(buckets, kind="stable")


def _buckets_shuffled(buckets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rank_of = rng.permutation(buckets.max(initial=0) + 1)
    return np.argsort(rank_of[buckets], kind="stable")


def _all_shuffled(buckets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(len(buckets))


# bucketing_strategy -> which batch comes when, (K,), from the bucket of each
ARRANGEMENTS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "synced_randomized": _buckets_shuffled,
    "fully_randomized": _all_shuffled,
    "fixed_order": _bucket_by_bucket,
}


@dataclass(frozen=True)
class Buckets:
    """Batches within buckets: no batch has utterances of two.

    bucket_of: (number of utterances,) bucket of each, from 0. batch_sizes: (number of buckets,) most utterances of a
    batch. arrangement: a key of ARRANGEMENTS, with NeMo's names: "fixed_order" goes through one bucket after the other,
    "synced_randomized" does so in another order each epoch, and "fully_randomized" shuffles the batches of all buckets
    (NeMo 3.0.0: each rank goes through the buckets in an order of its own, which is no plan for all ranks). None: the
    batches come by their first utterance.
    even: batches of a bucket are of equal size, rather than all full but the last.
    """

    bucket_of: np.ndarray
    batch_sizes: np.ndarray
    arrangement: str | None = "fully_randomized"
    even: bool = True

    def __call__(self, order: np.ndarray, rng: np.random.Generator) -> Plan:
        bucket = self.bucket_of[order]  # (M,)
        by_bucket = np.argsort(bucket, kind="stable")
        counts = np.bincount(bucket, minlength=len(self.batch_sizes))
        num_batches = -(-counts // self.batch_sizes)
        buckets = np.repeat(np.arange(len(counts)), num_batches)  # (K,), of each batch
        nth = np.arange(1, len(buckets) + 1) - np.repeat(np.cumsum(num_batches) - num_batches, num_batches)
        size, count = self.batch_sizes[buckets], counts[buckets]
        within = nth * count // num_batches[buckets] if self.even else np.minimum(nth * size, count)
        ends = within + (np.cumsum(counts) - counts)[buckets]
        plan = Plan(order[by_bucket], ends)
        if self.arrangement is None:
            return plan.reordered(np.argsort(by_bucket[ends - np.diff(ends, prepend=0)], kind="stable"))
        return plan.reordered(ARRANGEMENTS[self.arrangement](buckets, rng))


def duration_buckets(
    durations: np.ndarray,
    *,
    batch_duration: float,
    num_buckets: int | None = None,
    quadratic_duration: float | None = None,
    batch_size: int | None = None,
    shuffle: bool = True,
) -> Buckets:
    """Batches of utterances of similar length, as many as fit into `batch_duration` seconds with their padding.

    durations: (number of utterances,) seconds, no NaN. They are divided into `num_buckets` classes of length with about
    as much audio in each; the batches of a class have as many utterances as its longest allow, and at least one.
    quadratic_duration: an utterance of d seconds counts as d + d^2 / this, as attention over long ones costs more.
    batch_size: no more utterances than this. shuffle: batches come in random order, or else by their first utterance.
    Names, cost and equal amounts of audio per class as in lhotse. As sizes don't depend on the draw, every epoch that
    sees each utterance once has the same number of batches.
    """
    bucket_of = equal_audio(durations, num_buckets or DEFAULT_NUM_BUCKETS)
    longest = np.zeros(bucket_of.max(initial=0) + 1)
    np.maximum.at(longest, bucket_of, durations)
    cost = longest + (longest**2 / quadratic_duration if quadratic_duration else 0)
    fitting = np.floor(batch_duration / np.maximum(cost, 1e-3) + 1e-9).astype(np.int64)
    sizes = np.clip(fitting, 1, batch_size)
    return Buckets(bucket_of, sizes, "fully_randomized" if shuffle else None)


def equal_audio(durations: np.ndarray, num_buckets: int) -> np.ndarray:
    """(number of utterances,) class of length, from 0 for the shortest; equal lengths are in one class."""
    values, inverse, counts = np.unique(durations, return_inverse=True, return_counts=True)
    seconds = values * counts
    middle = np.cumsum(seconds) - seconds / 2  # audio up to the middle of those of a length
    classes = (num_buckets * middle / max(seconds.sum(), 1e-9)).astype(np.int64)
    return np.unique(classes, return_inverse=True)[1][inverse]


def bucket_batch_sizes(
    bucketing_batch_size: int | Sequence[int] | None,
    batch_size: int | None,
    weights: Sequence[int],
    config_path: str = "model.train_ds",
) -> np.ndarray:
    """(sum of weights,) utterances per batch of each bucket, for NeMo's options; repetitions follow their bucket.

    bucketing_batch_size: a number for each bucket, shortest first; or one number s, which means s for the last bucket,
        2 s for the one before, and so on; a bucket that weights repeat counts as often. Set, it needs `batch_size` 1,
        as in NeMo. None: `batch_size` for all.
    weights: (number of buckets,) how often each is repeated.
    NeMo 3.0.0 raises for `bucketing_batch_size` with noise, and its batches of fixed size run over bucket borders.
    Raises ValueError, in one line, naming the key.
    """
    if bucketing_batch_size is None:
        return np.full(sum(weights), batch_size)
    name = f"{config_path}.bucketing_batch_size={bucketing_batch_size!r}"
    if batch_size not in (1, None):
        raise ValueError(f"{name} sizes the batches; set {config_path}.batch_size=1, which is {batch_size}")
    sizes = bucketing_batch_size
    if isinstance(sizes, int):
        sizes = sizes * (sum(weights) - np.arange(len(weights)))
    if len(sizes) != len(weights):
        raise ValueError(f"{name} has {len(sizes)} numbers for {len(weights)} buckets; give one for each")
    return np.repeat(sizes, weights)


def padding_waste(plan: Plan, durations: np.ndarray) -> float:
    """Share of the padded seconds of all batches that is padding. durations: (number of utterances,) seconds."""
    if len(plan) == 0:
        return 0.0
    seconds = durations[plan.indices[: plan.ends[-1]]]
    sizes = np.diff(plan.ends, prepend=0)
    padded = (np.maximum.reduceat(seconds, plan.ends - sizes) * sizes).sum()
    return float(1.0 - seconds.sum() / padded) if padded > 0 else 0.0
