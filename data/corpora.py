"""Several corpora as one data set by index, and the order in which an epoch goes through them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from core.classes import Dataset
from data.dataset import SHARES, check_sampling, read_probabilities
from data.samplers import Draw
from parts.batch_types import AudioNoiseBatch, AudioNoiseItem, BadSample
from utils.logging import warn_once


class Corpora(Dataset):
    """Data sets one after the other: indices of the first, then of the second, and so on.

    Each has a seed of its own, so that utterance 7 of one corpus doesn't draw what utterance 7 of another draws.
    Batches are collated as the first one does it; they all have the same config, and so the same batch augmentor
    (NeMo 3.0.0 leaves the augmentor out where corpora are concatenated).

    datasets: data sets of noisy speech by index (see `AudioNoiseDataset`).
    """

    def __init__(self, datasets: Sequence[Dataset]):
        if not datasets:
            raise ValueError("Corpora: datasets=[] has no corpus; give one or more")
        self.datasets = list(datasets)
        self.sizes = [len(dataset) for dataset in self.datasets]
        self.ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, draw: Draw | int) -> AudioNoiseItem:
        """`sample_id` is the number of the utterance among all corpora. A plain index means epoch 0."""
        draw = draw if isinstance(draw, Draw) else Draw(0, draw)
        if draw.index is None:
            return self.datasets[0][draw]
        if not 0 <= draw.index < len(self):
            raise IndexError(f"index {draw.index} is not in 0 to {len(self) - 1}")
        corpus = int(np.searchsorted(self.ends, draw.index, side="right"))
        start = int(self.ends[corpus]) - self.sizes[corpus]
        item = self.datasets[corpus][draw._replace(index=draw.index - start)]
        return replace(item, sample_id=None if item.sample_id is None else str(start + int(item.sample_id)))

    def _collate_fn(self, batch: list[AudioNoiseItem]) -> AudioNoiseBatch:
        return self.datasets[0].collate_fn(batch)

    @property
    def durations(self) -> np.ndarray:
        """(number of utterances,) seconds, NaN where unknown."""
        return np.concatenate([dataset.durations for dataset in self.datasets])

    @property
    def rejected_lines(self) -> tuple[BadSample, ...]:
        """Manifest lines that name no utterance, of each corpus once."""
        return tuple(dict.fromkeys(bad for dataset in self.datasets for bad in dataset.rejected_lines))


@dataclass(frozen=True)
class CorpusOrder:
    """order(rng) -> (M,) int64 indices into `Corpora`, of the same length for each epoch; see `corpus_order`.

    starts, sizes: (C,) first index and number of utterances of each corpus.
    shares: (C,) of the draws that come from each; None: in turn.
    """

    starts: np.ndarray
    sizes: np.ndarray
    length: int
    shares: np.ndarray | None
    shuffle: bool
    seed: int | None

    def __len__(self) -> int:
        return self.length

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        corpora = self.in_turn() if self.shares is None else self.drawn(rng)
        order = np.empty(self.length, dtype=np.int64)
        for corpus, (start, size) in enumerate(zip(self.starts, self.sizes, strict=True)):
            places = np.flatnonzero(corpora == corpus)
            order[places] = start + self.walk(size, len(places), rng)
        return order

    def in_turn(self) -> np.ndarray:
        """(M,) numbers of corpora: one utterance of each, then the next of each that has more."""
        counts = shared_out(self.length, self.sizes)
        rounds = np.concatenate([np.arange(count) for count in counts])
        return np.repeat(np.arange(len(counts)), counts)[np.argsort(rounds, kind="stable")]

    def drawn(self, rng: np.random.Generator) -> np.ndarray:
        """(M,) numbers of corpora, at random."""
        chooser = rng if self.seed is None else np.random.default_rng(self.seed)
        return chooser.choice(len(self.shares), size=self.length, p=self.shares)

    def walk(self, size: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count,) indices below `size`: all of them, then all of them again, each time newly shuffled."""
        laps = range(-(-count // size)) if count else ()
        walked = [rng.permutation(size) if self.shuffle else np.arange(size) for _ in laps]
        return np.concatenate([*walked, np.empty(0, np.int64)])[:count]


def corpus_order(
    sizes: Sequence[int],
    technique: str | None,
    temperature: float = 5,
    probabilities: Sequence[float] | None = None,
    scale: float = 1,
    shuffle: bool = True,
    seed: int | None = None,
    config_path: str = "model.train_ds",
) -> CorpusOrder:
    """The order of an epoch over corpora: order(rng) -> (M,) int64, M = int(scale * total size) for each epoch.

    technique: which corpus the next utterance comes from. "round-robin": each in turn until all are through, so that
        every utterance comes once (None: this one, with a warning, as in NeMo); "random": drawn with `probabilities`
        (None: all alike); "temperature": drawn with shares proportional to size ** (1 / temperature).
    scale: a corpus is walked through this many times as often.
    shuffle: walk through each corpus in an order that `rng` draws, a new one when it has come to its end.
    seed: draw the corpora from this instead of `rng`, the same ones in each epoch, as NeMo does.
    config_path: section of the keys concat_..., for messages.
    Raises ValueError for options that don't go together, naming the key.

    Differs from NeMo 3.0.0, whose round-robin stops in the middle of the longer corpora, and which sees other
    utterances of a corpus more than once before some at all, as each rank and worker has its own part of it.
    """
    prefix = f"{config_path}.concat_"
    if technique is None:
        technique = "round-robin"
        warn_once(f"{prefix}sampling_technique is not set: round-robin, each utterance once")
    check_sampling(technique, temperature, scale, prefix)
    shares = read_probabilities(probabilities, len(sizes), prefix)
    counts = np.asarray(sizes, dtype=np.int64)
    shares = None if technique == "round-robin" else SHARES[technique](counts, temperature, shares)
    drawn_empty = [] if shares is None else np.flatnonzero((counts == 0) & (shares > 0))
    if len(drawn_empty):
        raise ValueError(f"{config_path}: corpus {drawn_empty[0] + 1} of {len(counts)} has no utterances to draw")
    length = int(counts.sum() * scale)
    if length == 0:
        raise ValueError(f"{prefix}sampling_scale={scale} leaves none of {counts.sum()} utterances; raise it")
    return CorpusOrder(np.cumsum(counts) - counts, counts, length, shares, shuffle, seed)


def shared_out(total: int, sizes: np.ndarray) -> np.ndarray:
    """(C,) whole numbers that sum to `total`, in proportion to `sizes` (largest remainders round up)."""
    exact = total * (sizes / sizes.sum())
    counts = np.floor(exact + 1e-9).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts
