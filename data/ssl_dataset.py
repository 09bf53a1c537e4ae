"""What a data section describes: NeMo's data sets, and the loaders of a training run.

`get_audio_noise_dataset_from_config` gives what NeMo's function of that name gives: streams, for concatenated and
tarred data. A training run reads the same utterances by index instead, so that every rank has the same number of
batches and a run can resume inside an epoch: `audio_noise_dataloader`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from data.audio_noise_dataset import AudioNoiseDataset
from data.batching import Buckets, bucket_batch_sizes
from data.collate import build_batch_augmentor, collate_audio_noise
from data.corpora import Corpora, corpus_order
from data.dataset import ConcatDataset
from data.lhotse_dataset import LhotseAudioNoiseDataset, lhotse_loader
from data.loader import ResumableLoader, build_loader
from data.noise import load_noise_audio, load_noise_manifest, sample_noise
from data.padding import pad_audio
from data.samplers import Order, as_listed, repeated, shuffled
from data.settings import DatasetSettings
from data.tarred import tar_table
from data.tarred_dataset import BucketChain, TarredAudioNoiseDataset, TarStream
from parts.batch_types import AudioNoiseBatch, AudioNoiseItem
from parts.preprocessing.manifest import keep_durations, read_manifests
from parts.preprocessing.utterances import UtteranceTable
from utils.logging import info_once, warn_once

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
    say_what_has_no_effect(settings, path, training)
    dataset = dataset_by_index(settings, path, mix_from_manifest=not training)
    return build_loader(
        dataset,
        settings,
        order=order_of(dataset, settings, path, world_size),
        buckets=buckets_of(dataset, settings, path),
        fixed_epoch=not training,
        global_rank=global_rank,
        world_size=world_size,
        path=path,
    )


def say_what_has_no_effect(settings: DatasetSettings, path: str, training: bool) -> None:
    """Of options that only NeMo's streams, or only a training, have a use for."""
    if settings.is_tarred and settings.shuffle and settings.shuffle_n is not None:
        info_once(f"{path}.shuffle_n={settings.shuffle_n} has no effect: all samples are shuffled, not shards alone")
    if not training and settings.max_rejected_share != DatasetSettings.max_rejected_share:
        warn_once(f"{path}.max_rejected_share={settings.max_rejected_share} has no effect: it stops training only")
    if settings.is_concat and len(in_corpora(source_of(settings), path)) == 1:
        warn_once(f"{path}.is_concat=true has one manifest to draw from; give a list of them")


def order_of(dataset: Dataset, settings: DatasetSettings, path: str, world_size: int) -> Order:
    """How an epoch goes through the data set: once; as corpora are drawn; or, where tar shards are replicated, as
    often as there are ranks (in NeMo 3.0.0 each rank goes through all shards then). So with `replicate`, and only
    then, an epoch depends on the number of ranks, and a run that goes on with another number begins the epoch anew.
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
    return repeated(order, world_size) if is_replicated and world_size > 1 else order


def buckets_of(dataset: Dataset, settings: DatasetSettings, path: str) -> Buckets | None:
    """The batches of a tarred section that has buckets. Raises ValueError for options that need some, or none."""
    if settings.is_concat or not isinstance(dataset, Corpora):
        warn_of_no_buckets(settings, path)
        return None
    if settings.batch_duration is not None:
        if settings.bucketing_strategy not in (None, DatasetSettings.bucketing_strategy):
            raise ValueError(
                f"{path}.bucketing_strategy={settings.bucketing_strategy!r} has no effect with batch_duration, which "
                "makes buckets of its own; set one of them to null"
            )
        return None
    number_of = np.repeat(np.arange(len(dataset.sizes)), dataset.sizes)
    sizes = batch_sizes_of(settings, path)
    return Buckets(number_of, sizes, settings.bucketing_strategy or DatasetSettings.bucketing_strategy, even=False)


def batch_sizes_of(settings: DatasetSettings, path: str) -> np.ndarray:
    """(number of buckets, repeated ones counted as often,)"""
    weights = bucket_weights(settings, len(in_buckets(source_of(settings), path)), path)
    return bucket_batch_sizes(settings.bucketing_batch_size, settings.batch_size, weights, path)


def warn_of_no_buckets(settings: DatasetSettings, path: str) -> None:
    if settings.is_tarred and not settings.is_concat and settings.bucketing_batch_size is not None:
        warn_once(
            f"{path}.bucketing_batch_size={settings.bucketing_batch_size!r} has no effect without buckets, whose tar "
            "files and manifests are lists in a list"
        )


# the utterances of a section


class Source(NamedTuple):
    """Where the utterances of a section, or of one of its corpora or buckets, are. tars: None where in no tar files."""

    manifests: str | Sequence
    tars: str | Sequence | None


def source_of(settings: DatasetSettings) -> Source:
    return Source(settings.manifest_filepath, settings.tarred_audio_filepaths if settings.is_tarred else None)


def dataset_by_index(settings: DatasetSettings, path: str, *, mix_from_manifest: bool) -> AudioNoiseDataset | Corpora:
    """The utterances of a section by index; every corpus and bucket draws from a seed of its own."""
    source, seed = source_of(settings), (settings.seed,)
    if not settings.is_concat:
        return corpus(source, settings, path, seed, mix_from_manifest=mix_from_manifest)
    return Corpora(
        [
            corpus(part, settings, path, (*seed, number), mix_from_manifest=mix_from_manifest)
            for number, part in enumerate(in_corpora(source, path))
        ]
    )


def corpus(
    source: Source, settings: DatasetSettings, path: str, seed: tuple[int, ...], *, mix_from_manifest: bool
) -> AudioNoiseDataset | Corpora:
    """One data set or, of buckets, one for each, as often as `bucketing_weights` says."""
    tables = bucket_tables(source, settings, path)
    seeds = [seed] if len(tables) == 1 else [(*seed, number) for number in range(len(tables))]
    datasets = [
        noisy_utterances(table, settings, path, seed, mix_from_manifest=mix_from_manifest)
        for table, seed in zip(tables, seeds)
    ]
    return datasets[0] if len(datasets) == 1 else Corpora(datasets)


def bucket_tables(source: Source, settings: DatasetSettings, path: str) -> list[UtteranceTable]:
    """The utterances of each bucket, as often as it is repeated; what isn't tarred is one bucket."""
    if source.tars is None:
        lines = read_manifests(source.manifests, f"{path}.manifest_filepath")
        return [keep_durations(lines, settings.min_duration, settings.max_duration, path)]
    bounds = {"min_duration": settings.min_duration, "max_duration": settings.max_duration}
    buckets = in_buckets(source, path)
    weights = bucket_weights(settings, len(buckets), path)
    tables = [tar_table(bucket.tars, bucket.manifests, path, **bounds) for bucket in buckets]
    return [table for table, weight in zip(tables, weights) for _ in range(weight)]


def noisy_utterances(
    table: UtteranceTable, settings: DatasetSettings, path: str, seed: tuple[int, ...], *, mix_from_manifest: bool
) -> AudioNoiseDataset:
    return AudioNoiseDataset(
        batch_augmentor=build_batch_augmentor(settings.batch_augmentor, f"{path}.batch_augmentor"),
        manifest_filepath=None,
        utterances=table,
        seed=seed,
        mix_from_manifest=mix_from_manifest,
        **settings.audio_options(),
        config_path=path,
    )


def in_corpora(source: Source, path: str) -> list[Source]:
    """The manifests (and their tar files) of a concatenated section.

    A list of one list is that list: NeMo writes it so where a list means several validation sets.
    """
    manifests = unwrapped(source.manifests)
    tars = [None] * len(manifests) if source.tars is None else unwrapped(source.tars)
    return paired(manifests, tars, "corpora", path)


def unwrapped(paths: str | Sequence | None) -> list:
    if paths is None:
        return [None]  # which reading it refuses
    paths = paths.split(",") if isinstance(paths, str) else [*paths]
    return list(paths[0]) if len(paths) == 1 and not isinstance(paths[0], str) else paths


def in_buckets(source: Source, path: str) -> list[Source]:
    """The buckets of a tarred section, which are lists in a list."""
    return paired(as_buckets(source.manifests), as_buckets(source.tars), "buckets", path)


def as_buckets(paths: str | Sequence | None) -> list:
    """A path, comma-separated paths or a list of them is one bucket; a list of lists is one bucket each."""
    if paths is None or isinstance(paths, str) or all(isinstance(path, str) for path in paths):
        return [paths]
    return [bucket[0] if len(bucket) == 1 else list(bucket) for bucket in paths]


def paired(manifests: list, tars: list, what: str, path: str) -> list[Source]:
    if len(manifests) != len(tars):
        raise ValueError(
            f"{path}.manifest_filepath has {len(manifests)} {what} and {path}.tarred_audio_filepaths {len(tars)}; "
            "give as many of both"
        )
    return [Source(*pair) for pair in zip(manifests, tars)]


def bucket_weights(settings: DatasetSettings, num_buckets: int, path: str) -> Sequence[int]:
    """How often each bucket is repeated."""
    weights = settings.bucketing_weights or [1] * num_buckets
    if len(weights) != num_buckets:
        raise ValueError(
            f"{path}.bucketing_weights={list(weights)} has {len(weights)} numbers for {num_buckets} buckets; "
            "give one for each"
        )
    return weights


# NeMo's data sets


def get_audio_noise_dataset_from_config(
    config: Mapping, global_rank: int = 0, world_size: int = 1, path: str = "model.train_ds"
) -> Dataset | None:
    """The data set that a section such as `model.train_ds` describes, of NeMo's kind: by index for a manifest, a
    stream for this rank for concatenated and tarred data. None when its manifest is null, as in NeMo.

    path: where the section stands in the config, for messages.
    """
    settings = DatasetSettings.from_config(config, path)
    if settings.use_lhotse:
        raise ValueError(f"{path}.use_lhotse=true makes a loader, and no data set alone; call audio_noise_dataloader")
    if settings.manifest_filepath is None:
        return None
    source = source_of(settings)
    if not settings.is_concat:
        return nemo_dataset(source, settings, path, global_rank, world_size)
    return ConcatDataset(
        [nemo_dataset(part, settings, path, global_rank, world_size) for part in in_corpora(source, path)],
        shuffle=settings.concat_shuffle,
        sampling_technique=settings.concat_sampling_technique or "round-robin",
        sampling_temperature=settings.concat_sampling_temperature,
        sampling_scale=settings.concat_sampling_scale,
        sampling_probabilities=settings.concat_sampling_probabilities,
        seed=settings.concat_sampling_seed,
        global_rank=global_rank,
        world_size=world_size,
    )


def nemo_dataset(source: Source, settings: DatasetSettings, path: str, global_rank: int, world_size: int) -> Dataset:
    """By index for a manifest, a stream for tar files."""
    if source.tars is None:
        return corpus(source, settings, path, (settings.seed,), mix_from_manifest=False)
    shuffle_n = settings.shuffle_n if settings.shuffle_n is not None else 4 * (settings.batch_size or 1)
    streams = []
    for number, table in enumerate(bucket_tables(source, settings, path)):
        samples = noisy_utterances(table, settings, path, (settings.seed, number), mix_from_manifest=False)
        shuffled_shards = shuffle_n if settings.shuffle else 0
        streams.append(TarStream(samples, shuffled_shards, settings.tarred_shard_strategy, global_rank, world_size))
    if len(streams) == 1:
        warn_of_no_buckets(settings, path)
        return streams[0]
    batch_sizes = None
    if settings.bucketing_batch_size is not None:
        batch_sizes = batch_sizes_of(settings, path).tolist()
    return BucketChain(streams, settings.bucketing_strategy, batch_sizes)
