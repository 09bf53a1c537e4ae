"""`ConcatDataset`: several data sets as one stream, with NeMo's name and NeMo's order.

The training run doesn't use it: `data/corpora.py` gives the same techniques to a sampler, so that every rank has the
same number of batches and a run can resume inside an epoch.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, repeat

import numpy as np
from torch.utils import data

from core.classes import IterableDataset
from utils.config_check import is_number
from utils.logging import logger

PROBABILITY_TOLERANCE = 1e-6  # NeMo's, for the sum
EXHAUSTED = object()


def alike(sizes: np.ndarray, temperature: float, probabilities: np.ndarray) -> np.ndarray:
    return np.full(len(sizes), 1 / len(sizes))


def given(sizes: np.ndarray, temperature: float, probabilities: np.ndarray) -> np.ndarray:
    return probabilities


def tempered(sizes: np.ndarray, temperature: float, probabilities: np.ndarray) -> np.ndarray:
    if not sizes.any():
        return np.zeros(len(sizes))
    shares = np.power(sizes / sizes.sum(), 1 / temperature)
    return shares / shares.sum()


# name -> function of sizes (C,), temperature and probabilities (C,); gives the shares (C,) of the data sets
SHARES: dict[str, Callable[[np.ndarray, float, np.ndarray], np.ndarray]] = {
    "round-robin": alike,
    "random": given,
    "temperature": tempered,
}


class ConcatDataset(IterableDataset):
    """Chooses a data set, then gives its next item; a data set that is exhausted starts again.

    Arguments in NeMo 3.0.0's order (`common/data/dataset.py`), and for the same seeds the same items: the choices
    start from `seed`, shuffling inside data sets from numpy's global generator.

    datasets: all by index, or all iterable. The former are shared out over ranks and workers; the latter do it
        themselves.
    shuffle: go through data sets by index in random order.
    sampling_technique: a key of `SHARES`.
    sampling_temperature: T in shares proportional to size ** (1 / T), for "temperature".
    sampling_scale: factor on the length.
    sampling_probabilities: one per data set, for "random"; None: all alike.

    Differs from NeMo 3.0.0, which cuts its data sets down to this rank's part anew in every epoch (500, 250, 125
    items), hangs where a worker has no item of any of them, has no collate function, and reports some wrong options
    only while iterating.
    """

    def __init__(
        self,
        datasets: Sequence[data.Dataset],
        shuffle: bool = True,
        sampling_technique: str = "temperature",
        sampling_temperature: float = 5,
        sampling_scale: float = 1,
        sampling_probabilities: Sequence[float] | None = None,
        seed: int | None = None,
        global_rank: int = 0,
        world_size: int = 1,
    ):
        self.datasets = list(datasets)
        self.is_iterable = all_iterable(self.datasets)
        check_sampling(sampling_technique, sampling_temperature, sampling_scale)
        if not 0 <= global_rank < world_size:
            raise ValueError(f"global_rank={global_rank} is not one of the ranks 0 to {world_size - 1} (world_size)")
        self.shuffle = shuffle
        self.sampling_technique = sampling_technique
        self.sampling_temperature = sampling_temperature
        self.sampling_probabilities = read_probabilities(sampling_probabilities, len(self.datasets))
        self.seed = seed
        self.global_rank = global_rank
        self.world_size = world_size
        sizes = [len(dataset) if self.is_iterable else len(dataset) // world_size for dataset in self.datasets]
        self.length = int(sum(sizes) * sampling_scale)
        if sampling_scale != 1:
            logger.info("sampling_scale=%s: %d items instead of %d", sampling_scale, self.length, sum(sizes))

    @property
    def collate_fn(self) -> Callable:
        """That of the first data set."""
        return getattr(self.datasets[0], "collate_fn", super().collate_fn)

    def __len__(self) -> int:
        """Items of this rank: as in NeMo, without those that don't divide among the ranks."""
        return self.length

    def __iter__(self) -> Iterator:
        worker = data.get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        parts = self.datasets if self.is_iterable else [self.part_of(x, number, workers) for x in self.datasets]
        streams = [self.stream(part) for part in parts]
        shares = self.shares(parts)
        choices = self.choices(shares)
        fresh = set(range(len(parts)))
        with_items = set(np.flatnonzero(shares))
        remaining = len(range(number, self.length, workers))
        while remaining and with_items:
            choice = next(choices)
            item = next(streams[choice], EXHAUSTED)
            if item is not EXHAUSTED:
                fresh.discard(choice)
                remaining -= 1
                yield item
                continue
            if choice in fresh:  # it has none at all: without this, a loop for ever
                with_items.discard(choice)
            streams[choice] = self.stream(parts[choice])
            fresh.add(choice)

    def part_of(self, dataset: data.Dataset, worker: int, workers: int) -> data.Subset:
        """What this rank and worker have of a data set; the last rank takes what doesn't divide."""
        share = len(dataset) // self.world_size
        start = share * self.global_rank
        end = len(dataset) if self.global_rank == self.world_size - 1 else start + share
        return data.Subset(dataset, range(start + worker, end, workers))

    def stream(self, part: data.Dataset) -> Iterator:
        """The items of one data set, once. Shuffling happens here and now, which is when NeMo does it."""
        if self.is_iterable:
            return iter(part)
        order = np.arange(len(part))
        if self.shuffle:
            np.random.shuffle(order)
        return map(part.__getitem__, order)

    def shares(self, parts: Sequence[data.Dataset]) -> np.ndarray:
        """(C,) of each data set, from what this rank and worker have of it."""
        sizes = np.array([len(part) for part in parts])
        return SHARES[self.sampling_technique](sizes, self.sampling_temperature, self.sampling_probabilities)

    def choices(self, shares: np.ndarray) -> Iterator[int]:
        """Endless numbers of data sets."""
        if self.sampling_technique == "round-robin":
            return cycle(range(len(shares)))
        rng = np.random.RandomState(self.seed)
        return (rng.choice(len(shares), p=shares) for _ in repeat(None))


def all_iterable(datasets: Sequence[data.Dataset]) -> bool:
    """Raises ValueError for no data sets, or for some that are iterable and some that go by index."""
    kinds = {isinstance(dataset, data.IterableDataset) for dataset in datasets}
    if not kinds:
        raise ValueError("datasets=[] has nothing to draw from; give one or more")
    if len(kinds) == 2:
        names = sorted({type(dataset).__name__ for dataset in datasets})
        raise ValueError(f"datasets are of two kinds ({', '.join(names)}); give only iterable ones, or none")
    return kinds.pop()


def check_sampling(technique: str, temperature: float, scale: float, prefix: str = "") -> None:
    """Raise ValueError naming `prefix` + sampling_technique, sampling_temperature or sampling_scale."""
    if technique not in [*SHARES]:
        raise ValueError(f"{prefix}sampling_technique={technique!r} is not one of {sorted(SHARES)}")
    for name, value in (("sampling_temperature", temperature), ("sampling_scale", scale)):
        if not (is_number(value) and 0 < value < np.inf):
            raise ValueError(f"{prefix}{name}={value!r} is not a number above 0")


def read_probabilities(probabilities: Sequence[float] | None, count: int, prefix: str = "") -> np.ndarray:
    """(C,) that sum to 1 exactly. Raises ValueError naming `prefix` + sampling_probabilities.

    NeMo accepts sums within 1e-6 of 1, then numpy refuses them; here they are scaled.
    """
    if not probabilities:
        return np.full(count, 1 / count)
    name = f"{prefix}sampling_probabilities={list(probabilities)!r}"
    if len(probabilities) != count:
        raise ValueError(f"{name} has {len(probabilities)} values for {count} data sets; give one for each")
    try:
        values = np.asarray(probabilities, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is not a list of numbers") from None
    if not (values >= 0).all() or abs(values.sum() - 1) > PROBABILITY_TOLERANCE:
        raise ValueError(f"{name} has the sum {values.sum():g}; give values from 0 that have the sum 1")
    return values / values.sum()
