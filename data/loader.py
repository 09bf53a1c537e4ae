"""The data loader of a run: batches in the order of a sampler's plan, and a place in it that a checkpoint keeps."""

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from data.batching import Batching, Buckets, FixedSize, duration_buckets, padding_waste
from data.samplers import Draw, EpochSampler, Order, ResumableSampler, Standing
from data.settings import DatasetSettings
from data.workers import end_at_exit, outlast_signals
from parts.batch_types import AudioNoiseBatch
from utils.logging import logger


class ResumableLoader(DataLoader):
    """torch's DataLoader with a state that Lightning saves and loads: that of its sampler, a `ResumableSampler`.

    It is made with `batch_size=None`, so that what the sampler gives is a whole batch.
    `batch.seconds["wait"]` is the time that was spent in `next`; without workers that is all of loading.
    A pass begins with its first `next`: Lightning makes the iterator before it says which epoch it is, and workers
    that began at once would read from the wrong one (Lightning 2.4 to 2.6, `_FitLoop.setup_data`).
    """

    _before_last: dict | None = None  # state before the last batch was handed out

    def __iter__(self) -> "Pass":
        return Pass(self)

    def start(self) -> Iterator[AudioNoiseBatch]:
        """Begin to read."""
        batches = super().__iter__()
        if self.num_workers:
            end_at_exit(batches)
        return batches

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
    buckets: Buckets | None = None,
    fixed_epoch: bool = False,
    global_rank: int = 0,
    world_size: int = 1,
    path: str = "model.train_ds",
) -> ResumableLoader:
    """The loader of a data section. Batches depend on (seed, epoch) and the ranks, not on the number of workers.

    dataset: utterances by `Draw`, with `durations`, `collate_fn` and `rejected_lines`. With `batch_duration`, a NaN
        among the durations is an utterance that can't be read.
    order: of an epoch; see `EpochSampler`. buckets: that the data is sorted into already.
    fixed_epoch: for evaluation, each epoch as the first. path: of the section, for messages.
    Raises ValueError, in one line, for options that don't go with the data.
    """
    durations = dataset.durations
    if settings.batch_duration is not None:  # all were measured; what has none is unreadable, and replaced when drawn
        durations = np.nan_to_num(durations, nan=0.0)
    durations = np.maximum(durations, settings.min_audio_len_secs)  # what is shorter is lengthened to this
    sampler = EpochSampler(
        dataset,
        batching=choose_batching(settings, durations, buckets),
        order=order,
        seed=settings.seed,
        drop_last=settings.drop_last,
        fixed_epoch=fixed_epoch,
        facts={"seconds": round(float(np.nansum(durations)), 2)} | plan_facts(settings),
        global_rank=global_rank,
        world_size=world_size,
    )
    check_size(sampler, settings, path)
    if not fixed_epoch:
        report(sampler, padding_waste(sampler.plan(), durations), path)
    return resumable_loader(Batches(dataset, sampler, settings.max_rejected_share), sampler, settings)


def resumable_loader(batches: Dataset, sampler: ResumableSampler, settings: DatasetSettings) -> ResumableLoader:
    """batches: what the sampler gives -> a batch."""
    return ResumableLoader(
        batches,
        batch_size=None,
        sampler=sampler,
        collate_fn=unchanged,
        worker_init_fn=outlast_signals,
        num_workers=settings.num_workers,
        persistent_workers=settings.num_workers > 0,
        pin_memory=settings.pin_memory and torch.cuda.is_available(),  # without CUDA torch only warns
        generator=torch.Generator(),  # else a loader steps the global generator once per epoch, and masks would differ
    )


def unchanged(batch: AudioNoiseBatch) -> AudioNoiseBatch:
    """What the data set gives is collated already."""
    return batch


def choose_batching(settings: DatasetSettings, durations: np.ndarray, buckets: Buckets | None) -> Batching:
    """How a section wants its batches."""
    if settings.batch_duration is not None:
        return duration_buckets(
            durations,
            batch_duration=settings.batch_duration,
            num_buckets=settings.num_buckets,
            quadratic_duration=settings.quadratic_duration,
            batch_size=settings.batch_size,
            shuffle=settings.shuffle,
        )
    return FixedSize(settings.batch_size, settings.drop_last) if buckets is None else buckets


PLAN_KEYS = ("batch_size", "batch_duration", "num_buckets", "quadratic_duration", "shuffle", "drop_last")


def plan_facts(settings: DatasetSettings) -> dict[str, object]:
    """What a change of the options is called by when a run goes on."""
    return {key: getattr(settings, key) for key in PLAN_KEYS}


def check_size(sampler: ResumableSampler, settings: DatasetSettings, path: str) -> None:
    """Raise ValueError where some rank gets no batch."""
    if len(sampler) == 0:
        key = "batch_size" if settings.batch_duration is None else "batch_duration"
        ranks = f" for each of {sampler.num_replicas} ranks" if sampler.num_replicas > 1 else ""
        raise ValueError(
            f"{path}: {len(sampler.dataset)} utterances don't fill one batch of {key}={getattr(settings, key)}{ranks}; "
            f"lower {key}, or set drop_last=false"
        )


def report(sampler: ResumableSampler, waste: float, path: str) -> None:
    """Say what an epoch is, and how much of it is padding."""
    padding = "unknown, as durations are" if np.isnan(waste) else f"{waste:.1%}"
    logger.info(
        "%s: %d utterances, %d batches per epoch; padding %s", path, len(sampler.dataset), sampler.num_batches, padding
    )
