"""What a data section describes: NeMo's data sets, and the loaders of a training run.

`get_audio_noise_dataset_from_config` gives what NeMo's function of that name gives: streams, for concatenated and
tarred data. A training run reads the same utterances by index instead, so that every rank has the same number of
batches and a run can resume inside an epoch: `audio_noise_dataloader`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from torch.utils.data import Dataset

from core.classes import from_config_dict
from data.audio_noise_dataset import AudioNoiseDataset
from data.batching import given_buckets
from data.collate import BatchAugmentor, collate_audio_noise
from data.corpora import Corpora, corpus_order
from data.dataset import ConcatDataset
from data.lhotse_dataset import LhotseAudioNoiseDataset, lhotse_loader
from data.loader import ResumableLoader, as_listed, build_loader, shuffled
from data.noise import load_noise_audio, load_noise_manifest, sample_noise
from data.padding import pad_audio
from data.samplers import Order
from data.settings import DatasetSettings
from data.tarred import tar_table
from data.tarred_dataset import BucketChain, TarredAudioNoiseDataset, TarStream
from parts.batch_types import AudioNoiseBatch, AudioNoiseItem
from parts.preprocessing.manifest import measure_durations

__all__ = [
    "AudioNoiseBatch",
    "AudioNoiseDataset",
    "AudioNoiseItem",
    "LhotseAudioNoiseDataset",
    "TarredAudioNoiseDataset",
    "audio_noise_dataloader",
    "collate_audio_noise",
    "get_audio_noise_dataset_from_config",
    "load_noise_audio",
    "load_noise_manifest",
    "pad_audio",
    "sample_noise",
]


def audio_noise_dataloader(
    config: Mapping,
    *,
    path: str = "model.train_ds",
    training: bool = True,
    global_rank: int = 0,
    world_size: int = 1,
) -> ResumableLoader | None:
    """Loader over a data section. Batches depend on (seed, epoch) and the ranks, not on the number of workers.

    training: other noise in each epoch, talkers of the batch, and a manifest is required; otherwise each evaluation
        draws the same noise, talkers come from the manifest, and a null manifest gives None.
    """
    settings = DatasetSettings.from_config(config, path)
    if settings.use_lhotse:
        return lhotse_loader(settings, path, training=training, global_rank=global_rank, world_size=world_size)
    if settings.manifest_filepath is None and not training:
        return None
    dataset = dataset_by_index(settings, path, (settings.seed,), mix_from_manifest=not training)
    return build_loader(
        dataset,
        settings,
        order=order_of(dataset, settings, path, world_size),
        bucket_of=bucket_numbers(dataset, settings),
        fixed_epoch=not training,
        global_rank=global_rank,
        world_size=world_size,
        path=path,
    )


def bucket_numbers(dataset: Dataset, settings: DatasetSettings) -> np.ndarray | None:
    """(number of utterances,) which bucket of a tarred section each is in; None where there are no buckets."""
    if settings.is_concat or not isinstance(dataset, Corpora):
        return None
    return np.repeat(np.arange(len(dataset.sizes)), dataset.sizes)


def order_of(dataset: Dataset, settings: DatasetSettings, path: str, world_size: int) -> Order:
    """How an epoch goes through the data set: once; as corpora are drawn; or, where tar shards are replicated, as
    often as there are ranks (in NeMo 3.0.0 each rank goes through all shards then).
    """
    if settings.is_concat:
        order = corpus_order(
            dataset.sizes,
            settings.concat_sampling_technique,
            settings.concat_sampling_temperature,
            settings.concat_sampling_probabilities,
            settings.concat_sampling_scale,
            settings.concat_shuffle,
            settings.concat_sampling_seed,
            path,
        )
    else:
        order = shuffled(len(dataset)) if settings.shuffle else as_listed(len(dataset))
    is_replicated = settings.is_tarred and settings.tarred_shard_strategy == "replicate"
    return partial(repeated, order, world_size) if is_replicated and world_size > 1 else order


def repeated(order: Order, times: int, rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([order(rng) for _ in range(times)])


def dataset_by_index(
    settings: DatasetSettings, path: str, seed: tuple[int, ...], *, mix_from_manifest: bool
) -> AudioNoiseDataset | Corpora:
    """The utterances of a section by index. seed: of what they draw; every corpus and bucket gets one of its own."""

    def with_seed(number: int, part: DatasetSettings) -> AudioNoiseDataset | Corpora:
        return dataset_by_index(part, path, (*seed, number), mix_from_manifest=mix_from_manifest)

    parts = corpora_of(settings, path) if settings.is_concat else buckets_of(settings, path)
    if len(parts) > 1 or settings.is_concat:
        return Corpora([with_seed(number, part) for number, part in enumerate(parts)])

    (settings,) = parts
    utterances = None
    if settings.is_tarred:
        utterances = tar_table(
            settings.tarred_audio_filepaths,
            settings.manifest_filepath,
            path,
            min_duration=settings.min_duration,
            max_duration=settings.max_duration,
        )
    dataset = AudioNoiseDataset(
        settings.noise_manifest,
        build_batch_augmentor(settings, path),
        settings.min_audio_len_secs,
        settings.pad_audio_mode,
        manifest_filepath=None if settings.is_tarred else settings.manifest_filepath,
        sample_rate=settings.sample_rate,
        int_values=settings.int_values,
        augmentor=settings.augmentor,
        max_duration=settings.max_duration,
        min_duration=settings.min_duration,
        trim=settings.trim_silence,
        channel_selector=settings.channel_selector,
        seed=seed,
        normalize_db=settings.normalize_db,
        rir_manifest=settings.rir_manifest,
        rir_prob=settings.rir_prob,
        mix_from_manifest=mix_from_manifest,
        utterances=utterances,
        config_path=path,
    )
    if settings.batch_duration is not None:
        dataset.utterances = measure_durations(dataset.utterances)
    return dataset


def build_batch_augmentor(settings: DatasetSettings, path: str) -> BatchAugmentor | None:
    if settings.batch_augmentor is None:
        return None
    return from_config_dict(settings.batch_augmentor, path=f"{path}.batch_augmentor")


# the parts of a section


def corpora_of(settings: DatasetSettings, path: str) -> list[DatasetSettings]:
    """One section for each manifest (and its tar files) of a concatenated one.

    A list of one list is that list: NeMo writes it so where a list means several validation sets.
    """
    manifests = unwrapped(settings.manifest_filepath)
    tars = unwrapped(settings.tarred_audio_filepaths) if settings.is_tarred else [None] * len(manifests)
    if len(manifests) != len(tars):
        raise ValueError(
            f"{path}.manifest_filepath names {len(manifests)} corpora and {path}.tarred_audio_filepaths {len(tars)}; "
            "give as many of both"
        )
    pairs = zip(manifests, tars)
    return [replace(settings, is_concat=False, manifest_filepath=m, tarred_audio_filepaths=t) for m, t in pairs]


def unwrapped(paths: str | Sequence) -> list:
    paths = paths.split(",") if isinstance(paths, str) else list(paths)
    return list(paths[0]) if len(paths) == 1 and not isinstance(paths[0], str) else paths


def buckets_of(settings: DatasetSettings, path: str) -> list[DatasetSettings]:
    """One section for each bucket of a tarred one, as often as `bucketing_weights` says; buckets are lists in a list.

    What isn't tarred, or is one bucket, is one section.
    """
    if not settings.is_tarred:
        return [settings]
    manifests, tars = as_buckets(settings.manifest_filepath), as_buckets(settings.tarred_audio_filepaths)
    if len(manifests) != len(tars):
        raise ValueError(
            f"{path}.manifest_filepath has {len(manifests)} buckets and {path}.tarred_audio_filepaths {len(tars)}; "
            "give as many of both"
        )
    weights = settings.bucketing_weights or [1] * len(tars)
    if len(weights) != len(tars) or not all(type(weight) is int and weight > 0 for weight in weights):
        raise ValueError(
            f"{path}.bucketing_weights={list(weights)} are not {len(tars)} whole numbers above 0, one for each bucket"
        )
    single = replace(settings, bucketing_weights=None)
    buckets = [replace(single, manifest_filepath=m, tarred_audio_filepaths=t) for m, t in zip(manifests, tars)]
    return [bucket for bucket, weight in zip(buckets, weights) for _ in range(weight)]


def as_buckets(paths: str | Sequence) -> list:
    """A path, comma-separated paths or a list of them is one bucket; a list of lists is one bucket each."""
    if isinstance(paths, str) or all(isinstance(path, str) for path in paths):
        return [paths]
    return [bucket[0] if len(bucket) == 1 else list(bucket) for bucket in paths]


# NeMo's data sets


def get_audio_noise_dataset_from_config(
    config: Mapping, global_rank: int = 0, world_size: int = 1, path: str = "model.train_ds"
) -> Dataset | None:
    """The data set that a section such as `model.train_ds` describes, of NeMo's kind: by index for a manifest, a
    stream for this rank for concatenated and tarred data. None when its manifest is null, as in NeMo.

    path: where the section stands in the config, for messages.
    """
    settings = DatasetSettings.from_config(config, path)
    if settings.manifest_filepath is None:
        return None
    return nemo_dataset(settings, path, global_rank, world_size)


def nemo_dataset(settings: DatasetSettings, path: str, global_rank: int, world_size: int) -> Dataset:
    if settings.is_concat:
        return ConcatDataset(
            [nemo_dataset(corpus, path, global_rank, world_size) for corpus in corpora_of(settings, path)],
            shuffle=settings.concat_shuffle,
            sampling_technique=settings.concat_sampling_technique or "round-robin",
            sampling_temperature=settings.concat_sampling_temperature,
            sampling_scale=settings.concat_sampling_scale,
            sampling_probabilities=settings.concat_sampling_probabilities,
            seed=settings.concat_sampling_seed,
            global_rank=global_rank,
            world_size=world_size,
        )
    if not settings.is_tarred:
        return dataset_by_index(settings, path, (settings.seed,), mix_from_manifest=False)
    shuffle_n = settings.shuffle_n if settings.shuffle_n is not None else 4 * (settings.batch_size or 1)
    streams = []
    for number, bucket in enumerate(buckets_of(settings, path)):
        samples = dataset_by_index(bucket, path, (settings.seed, number), mix_from_manifest=False)
        shuffled_shards = shuffle_n if settings.shuffle else 0
        streams.append(TarStream(samples, shuffled_shards, settings.tarred_shard_strategy, global_rank, world_size))
    if len(streams) == 1:
        return streams[0]
    batch_sizes = None
    if settings.bucketing_batch_size is not None:
        batch_sizes = bucket_batch_sizes(settings, len(streams), path)
    return BucketChain(streams, settings.bucketing_strategy, batch_sizes)


def bucket_batch_sizes(settings: DatasetSettings, num_buckets: int, path: str) -> Sequence[int]:
    buckets = given_buckets(
        np.arange(num_buckets),
        strategy=settings.bucketing_strategy,
        batch_size=settings.batch_size,
        bucketing_batch_size=settings.bucketing_batch_size,
        bucketing_weights=settings.bucketing_weights,
        config_path=path,
    )
    return buckets.batch_sizes.tolist()
