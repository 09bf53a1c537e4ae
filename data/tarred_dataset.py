"""Utterances in tar shards as streams, in NeMo's order.

A training run doesn't stream: it draws from the same utterances by index (see `data/ssl_dataset.py`), so that
shuffling is exact and all ranks have equally many batches.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from torch.utils.data import get_worker_info

from core.classes import IterableDataset
from data.audio_noise_dataset import AudioNoiseDataset
from data.collate import BatchAugmentor
from data.samplers import Draw
from data.tarred import nemo_order, tar_table
from parts.batch_types import AudioNoiseBatch, AudioNoiseItem
from parts.preprocessing.perturb import Augmentor
from parts.preprocessing.segment import ChannelSelector


class TarStream(IterableDataset):
    """The utterances of tar shards in NeMo 3.0.0's order, for one rank and its loader workers.

    samples: the utterances by index; their table is a `TarTable`.
    shuffle_n: above 0, that many shards are gathered to draw the next from (it shuffles no samples, as in NeMo).
    shard_strategy: `scatter` gives each rank shards of its own, `replicate` gives all to each.
    """

    def __init__(
        self,
        samples: AudioNoiseDataset,
        shuffle_n: int = 0,
        shard_strategy: str = "scatter",
        global_rank: int = 0,
        world_size: int = 1,
    ):
        self.samples = samples
        self.shuffle_n = shuffle_n
        self.shard_strategy = shard_strategy
        self.global_rank = global_rank
        self.world_size = world_size
        self.epoch = 0  # of the next pass: each draws other noise

    def __len__(self) -> int:
        """Of all ranks, as in NeMo, and with lines of shards that weren't given."""
        return self.samples.utterances.num_nemo_ids

    def __iter__(self) -> Iterator[AudioNoiseItem]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        worker = get_worker_info()
        rows = nemo_order(
            self.samples.utterances,
            self.shard_strategy,
            max(1, self.world_size),
            self.global_rank,
            0 if worker is None else worker.id,
            1 if worker is None else worker.num_workers,
            self.shuffle_n,
            np.random.default_rng((*self.samples.seed, epoch, len(self.samples))),  # no utterance draws from this
        )
        for row in rows:
            item = self.samples[Draw(epoch, int(row))]
            yield item if item.sample_id is None else replace(item, sample_id=self.nemo_id(item.sample_id))

    def nemo_id(self, sample_id: str) -> str:
        """Its number among the manifest's lines, where a table counts those that have audio."""
        return str(self.samples.utterances.nemo_ids[int(sample_id)])

    def _collate_fn(self, batch: Sequence[AudioNoiseItem]) -> AudioNoiseBatch:
        return self.samples.collate_fn(batch)


class TarredAudioNoiseDataset(TarStream):
    """`TarStream` with NeMo's constructor.

    audio_tar_filepaths: brace patterns (`audio__OP_0..3_CL_.tar`) or paths of tar files.
    manifest_filepath: NeMo's tarred manifest, or a pattern of one manifest per shard.
    shard_manifests: NeMo's way to say the latter; here the pattern says it, for any launcher (NeMo 3.0.0 needs CUDA and
        torch.distributed for it).
    The others are those of `AudioNoiseDataset` and `TarStream`.
    """

    def __init__(
        self,
        noise_manifest: str | Sequence[str] | None = None,
        batch_augmentor: BatchAugmentor | None = None,
        min_audio_len_secs: float = 1.0,
        pad_audio_mode: str = "repeat",
        *,
        audio_tar_filepaths: str | Sequence[str],
        manifest_filepath: str | Sequence[str],
        labels: Sequence[str] | None = None,
        sample_rate: int,
        int_values: bool = False,
        augmentor: Augmentor | Mapping | None = None,
        shuffle_n: int = 0,
        min_duration: float | None = None,
        max_duration: float | None = None,
        blank_index: int = -1,
        unk_index: int = -1,
        normalize: bool = True,
        trim: bool = False,
        eos_id: int | None = None,
        parser: str = "en",
        pad_id: int = 0,
        shard_strategy: str = "scatter",
        shard_manifests: bool = False,
        global_rank: int = 0,
        world_size: int = 1,
        return_sample_id: bool = False,
        channel_selector: ChannelSelector = None,
        seed: int | Sequence[int] = 0,
        config_path: str = "model.train_ds",
    ):
        table = tar_table(
            audio_tar_filepaths, manifest_filepath, config_path, min_duration=min_duration, max_duration=max_duration
        )
        samples = AudioNoiseDataset(
            noise_manifest,
            batch_augmentor,
            min_audio_len_secs,
            pad_audio_mode,
            manifest_filepath=None,
            labels=labels,
            sample_rate=sample_rate,
            int_values=int_values,
            augmentor=augmentor,
            blank_index=blank_index,
            unk_index=unk_index,
            normalize=normalize,
            trim=trim,
            eos_id=eos_id,
            pad_id=pad_id,
            parser=parser,
            return_sample_id=return_sample_id,
            channel_selector=channel_selector,
            seed=seed,
            utterances=table,
            config_path=config_path,
        )
        super().__init__(samples, shuffle_n, shard_strategy, global_rank, world_size)


def in_turn(num_buckets: int, rng: np.random.RandomState) -> Sequence[int]:
    return range(num_buckets)


def at_random(num_buckets: int, rng: np.random.RandomState) -> Sequence[int]:
    return rng.permutation(num_buckets)


# bucketing_strategy -> the order of the buckets in a pass. NeMo draws the synced one from seed 0 on all ranks
BUCKET_ORDERS: dict[str, Callable[[int, np.random.RandomState], Sequence[int]]] = {
    "fixed_order": in_turn,
    "synced_randomized": at_random,
    "fully_randomized": at_random,
}


class BucketChain(IterableDataset):
    """Streams one after the other, in an order that `strategy` says.

    strategy: a key of BUCKET_ORDERS; `fully_randomized` draws another order on each rank.
    batch_sizes: utterances per item for each stream: items are then lists, as NeMo's adaptive bucketing has them
        (which raises in NeMo 3.0.0 for data sets with noise). None: items are utterances.
    """

    def __init__(
        self,
        streams: Sequence[TarStream],
        strategy: str | None = None,
        batch_sizes: Sequence[int] | None = None,
    ):
        self.streams = list(streams)
        self.order = BUCKET_ORDERS[strategy or "synced_randomized"]
        seed = 0 if strategy != "fully_randomized" else (streams[0].samples.seed[0], streams[0].global_rank)
        self.rng = np.random.RandomState(seed)
        self.batch_sizes = batch_sizes

    def __len__(self) -> int:
        if self.batch_sizes is None:
            return sum(map(len, self.streams))
        return sum(-(-len(stream) // size) for stream, size in zip(self.streams, self.batch_sizes))

    def __iter__(self) -> Iterator[AudioNoiseItem | list[AudioNoiseItem]]:
        for number in self.order(len(self.streams), self.rng):
            items = iter(self.streams[number])
            if self.batch_sizes is None:
                yield from items
                continue
            while batch := list(islice(items, self.batch_sizes[number])):
                yield batch

    def _collate_fn(self, batch: list) -> AudioNoiseBatch:
        """Lists of items are batches already; a loader then takes one at a time."""
        return self.streams[0].collate_fn(batch if self.batch_sizes is None else batch[0])
