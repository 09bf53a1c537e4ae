"""The data loader of a run: batches in the order of a sampler's plan, and a place in it that a checkpoint keeps."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from data.batching import Batching, FixedSize, duration_buckets, given_buckets, padding_waste
from data.samplers import Draw, EpochSampler, Order, Standing
from data.settings import DatasetSettings
from parts.batch_types import AudioNoiseBatch, BadSample
from utils.logging import logger


@runtime_checkable
class ResumableSampler(Protocol):
    """What a `ResumableLoader` asks of its sampler, beyond iterating it, `len` and `set_epoch`.

    A pass over the sampler begins with the first `next` on its iterator, not with `iter`. After `load_state_dict` the
    next pass goes on where the state was; every other pass is of a whole epoch.
    The sampler has to be a torch DistributedSampler, so that Lightning leaves it in place.
    """

    def batch_given(self) -> None:
        """The loader has handed out one more of the batches that the iterator gave, in that order.

        Iterating runs ahead of this, as workers read ahead; only batches that are handed out count in the state.
        """

    def state_dict(self) -> dict:
        """Where this rank stands: plain numbers, strings, lists and dicts."""

    def load_state_dict(self, state: dict) -> None:
        """Go on there. A state of other data is refused with a warning, and its epoch starts anew."""

    def standing(self) -> Standing:
        """How far this rank is, by the batches handed out; after `load_state_dict`, also of another number of ranks."""


class ResumableLoader(DataLoader):
    """torch's DataLoader with a state that Lightning saves and loads: that of its sampler, a `ResumableSampler`.

    It is made with `batch_size=None` over `Batches`, so that what the sampler gives is a whole batch.
    `batch.seconds["wait"]` is the time that was spent in `next`; without workers that is all of loading.
    A pass begins with its first `next`: Lightning makes the iterator before it says which epoch it is, and workers
    that began at once would read from the wrong one (Lightning 2.4 to 2.6, `_FitLoop.setup_data`).
    """

    def __iter__(self) -> "Pass":
        return Pass(self)

    _before_last: dict | None = None  # state before the last batch was handed out

    def start(self) -> Iterator[AudioNoiseBatch]:
        """Begin to read."""
        return super().__iter__()

    def count_batch(self) -> None:
        """One more batch is handed out."""
        if self.is_resumable:
            self._before_last = self.sampler.state_dict()
            self.sampler.batch_given()

    @property
    def is_resumable(self) -> bool:
        """False where something has put another sampler in place of ours."""
        return isinstance(self.sampler, ResumableSampler)

    def state_dict(self) -> dict:
        """now: of the sampler; before_last: for a run that is stopped before it has used the last batch."""
        if not self.is_resumable:
            return {}
        return {"now": self.sampler.state_dict(), "before_last": self._before_last}

    def load_state_dict(self, state: dict) -> None:
        if state and self.is_resumable:
            self.sampler.load_state_dict(state["now"])

    def standing(self) -> Standing | None:
        """Where its sampler stands, if it can say."""
        return self.sampler.standing() if self.is_resumable else None

    @property
    def rejected_lines(self) -> tuple[BadSample, ...]:
        """Manifest lines that name no utterance."""
        return self.dataset.rejected_lines

    @property
    def max_rejected_share(self) -> float | None:
        """Of its samples, beyond which a run stops."""
        return self.dataset.max_rejected_share


class Pass:
    """Iterator of a `ResumableLoader`: counts what is handed out, and times the wait for it."""

    def __init__(self, loader: ResumableLoader):
        self._loader = loader
        self._batches: Iterator[AudioNoiseBatch] | None = None

    def __iter__(self) -> "Pass":
        return self

    def __next__(self) -> AudioNoiseBatch:
        start = time.perf_counter()
        if self._batches is None:
            self._batches = self._loader.start()
        batch = next(self._batches)
        self._loader.count_batch()
        batch.seconds["wait"] = time.perf_counter() - start
        return batch


class Batches(Dataset):
    """A data set's batches, by the draws that make them up; a plain number i is batch i of epoch 0.

    The latter is for samplers that aren't ours, as `trainer.overfit_batches` puts one in place.
    """

    def __init__(self, dataset: Dataset, sampler: EpochSampler, max_rejected_share: float | None = None):
        self.dataset = dataset
        self.sampler = sampler
        self.max_rejected_share = max_rejected_share
        self.rejected_lines: tuple[BadSample, ...] = dataset.rejected_lines

    def __len__(self) -> int:
        return self.sampler.num_batches

    def __getitem__(self, draws: tuple[Draw, ...] | int) -> AudioNoiseBatch:
        if isinstance(draws, int):
            draws = self.sampler.first_epoch(draws)
        return self.dataset.collate_fn([self.dataset[draw] for draw in draws])


def build_loader(
    dataset: Dataset,
    settings: DatasetSettings,
    *,
    order: Order,
    bucket_of: np.ndarray | None = None,
    fixed_epoch: bool = False,
    global_rank: int = 0,
    world_size: int = 1,
    path: str = "model.train_ds",
) -> ResumableLoader:
    """The loader of a data section. Batches depend on (seed, epoch) and the ranks, not on the number of workers.

    dataset: utterances by `Draw`, with `durations`, `collate_fn` and `rejected_lines`. With `batch_duration`, a NaN
        among the durations is an utterance that can't be read.
    order: of an epoch; see `EpochSampler`. bucket_of: (number of utterances,) bucket that each is sorted into already.
    fixed_epoch: for evaluation, each epoch as the first. path: of the section, for messages.
    Raises ValueError, in one line, for options that don't go with the data.
    """
    durations = dataset.durations
    if settings.batch_duration is not None:  # all were measured; what has none is unreadable, and replaced when drawn
        durations = np.nan_to_num(durations, nan=0.0)
    durations = np.maximum(durations, settings.min_audio_len_secs)  # what is shorter is lengthened to this
    batching = choose_batching(settings, durations, bucket_of, path)
    sampler = EpochSampler(
        dataset,
        batching=batching,
        order=order,
        seed=settings.seed,
        drop_last=settings.drop_last,
        fixed_epoch=fixed_epoch,
        facts=facts(settings, durations),
        global_rank=global_rank,
        world_size=world_size,
    )
    if len(sampler) == 0:
        key = "batch_size" if settings.batch_duration is None else "batch_duration"
        raise ValueError(
            f"{path}: {len(dataset)} utterances over {world_size} ranks don't fill one batch of "
            f"{key}={getattr(settings, key)} for each; lower {key}, or set drop_last=false"
        )
    if not fixed_epoch:
        report(sampler, durations, path)
    return ResumableLoader(
        Batches(dataset, sampler, settings.max_rejected_share),
        batch_size=None,
        sampler=sampler,
        collate_fn=unchanged,
        num_workers=settings.num_workers,
        persistent_workers=settings.num_workers > 0,
        pin_memory=settings.pin_memory and torch.cuda.is_available(),  # without CUDA torch only warns
        generator=torch.Generator(),  # else a loader steps the global generator once per epoch, and masks would differ
    )


def unchanged(batch: AudioNoiseBatch) -> AudioNoiseBatch:
    """What `Batches` gives is collated already."""
    return batch


def choose_batching(
    settings: DatasetSettings, durations: np.ndarray, bucket_of: np.ndarray | None, path: str
) -> Batching:
    """How a section wants its batches."""
    if settings.batch_duration is not None:
        return duration_buckets(
            durations,
            batch_duration=settings.batch_duration,
            num_buckets=settings.num_buckets,
            quadratic_duration=settings.quadratic_duration,
            batch_size=settings.batch_size,
            shuffle=settings.shuffle,
            config_path=path,
        )
    if bucket_of is not None:
        return given_buckets(
            bucket_of,
            strategy=settings.bucketing_strategy,
            batch_size=settings.batch_size,
            bucketing_batch_size=settings.bucketing_batch_size,
            bucketing_weights=settings.bucketing_weights,
            config_path=path,
        )
    return FixedSize(settings.batch_size, settings.drop_last)


PLAN_KEYS = ("batch_size", "batch_duration", "num_buckets", "quadratic_duration", "shuffle", "drop_last")


def facts(settings: DatasetSettings, durations: np.ndarray) -> dict[str, object]:
    """What a change of the data or its options is called by when a run goes on."""
    return {"seconds": round(float(np.nansum(durations)), 2)} | {key: getattr(settings, key) for key in PLAN_KEYS}


def report(sampler: EpochSampler, durations: np.ndarray, path: str) -> None:
    """Say what an epoch is, and how much of it is padding."""
    waste = padding_waste(sampler.plan(), durations)
    padding = "unknown, as durations are" if np.isnan(waste) else f"{waste:.1%}"
    logger.info(
        "%s: %d utterances, %d batches per epoch; padding %s", path, len(sampler.dataset), sampler.num_batches, padding
    )


def shuffled(num_utterances: int) -> Order:
    """Each utterance once per epoch, in random order."""
    return partial(_permutation, num_utterances)


def as_listed(num_utterances: int) -> Order:
    """Each utterance once per epoch, in the order of the manifest."""
    return partial(_arange, num_utterances)


def _permutation(num_utterances: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(num_utterances)


def _arange(num_utterances: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(num_utterances)
