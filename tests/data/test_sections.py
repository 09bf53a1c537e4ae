"""Data sections that name several corpora, tar shards or buckets: what a training run reads, and NeMo's streams."""

from collections import Counter
from collections.abc import Iterable

import pytest
import torch
from torch.utils.data import IterableDataset

import models.targets  # noqa: F401  (registers the batch augmentors)
from data.ssl_dataset import audio_noise_dataloader, get_audio_noise_dataset_from_config


def read(section: dict, epoch: int = 0, rank: int = 0, ranks: int = 1) -> list[list[str]]:
    """Names of the samples of each batch."""
    loader = audio_noise_dataloader(section, global_rank=rank, world_size=ranks)
    loader.sampler.set_epoch(epoch)
    return [batch.sample_id for batch in loader]


def flat(batches: Iterable[list[str]]) -> list[str]:
    return [name for batch in batches for name in batch]


@pytest.fixture
def corpora(speech_and_noise):
    """A section over two corpora: all six utterances, and the four shortest."""

    def make(**section) -> dict:
        one = speech_and_noise(is_concat=True, concat_sampling_seed=None, concat_shuffle=True)
        path = one["manifest_filepath"]
        with open(path, encoding="utf-8") as file:
            lines = file.readlines()
        with open(path.replace("speech", "short"), "w", encoding="utf-8") as file:
            file.writelines(lines[:4])
        return one | {"manifest_filepath": [path, path.replace("speech", "short")]} | section

    return make


# ---------------------------------------------------------------------------------------------------- corpora


def test_round_robin_reads_every_utterance_of_every_corpus_once(corpora):
    for epoch in range(2):
        names = flat(read(corpora(concat_sampling_technique="round-robin"), epoch))
        assert sorted(names, key=int) == [str(i) for i in range(10)]
        assert [int(name) >= 6 for name in names[:8]] == [False, True] * 4


def test_the_same_utterance_of_two_corpora_draws_other_noise(corpora):
    section = corpora(concat_sampling_technique="round-robin", batch_size=10, concat_shuffle=False)
    (batch,) = audio_noise_dataloader(section)
    one, other = batch.sample_id.index("3"), batch.sample_id.index("9")
    assert torch.equal(batch.audio[one], batch.audio[other])
    assert not torch.equal(batch.noise[one], batch.noise[other])


def test_the_batch_augmentor_reaches_every_corpus(corpora):
    section = corpora(concat_sampling_technique="round-robin", batch_size=10)
    section["batch_augmentor"] = {
        "_target_": "nemo.collections.asr.modules.ssl_modules.SpeakerNoiseAugmentation",
        "prob": 1.0,
        "min_mix_rate": 0.1,
        "max_mix_rate": 0.2,
    }
    (batch,) = audio_noise_dataloader(section)
    shares = [(row[: int(n)] != 0).float().mean() for row, n in zip(batch.noise, batch.audio_len)]
    assert all(0 < share < 0.25 for share in shares)


CONCAT_CHANGES = {
    "concat_sampling_technique": "round-robin",
    "concat_sampling_temperature": 0.1,
    "concat_sampling_scale": 2,
    "concat_shuffle": False,
    "concat_sampling_seed": 7,
    "seed": 1,
}


@pytest.mark.parametrize("option", CONCAT_CHANGES)
def test_every_option_of_concatenation_changes_what_is_read(corpora, option):
    section = corpora(concat_sampling_technique="temperature", concat_sampling_temperature=1.0)
    assert read(section) == read(section)
    assert read(section | {option: CONCAT_CHANGES[option]}) != read(section)


def test_probabilities_say_how_often_a_corpus_is_drawn(corpora):
    section = corpora(concat_sampling_technique="random", concat_sampling_scale=40)
    counts = Counter(int(name) >= 6 for name in flat(read(section | {"concat_sampling_probabilities": [0.9, 0.1]})))
    assert 20 < counts[True] < 60


def test_an_utterance_that_is_drawn_twice_in_an_epoch_draws_other_noise(corpora):
    section = corpora(concat_sampling_technique="random", concat_sampling_scale=2, batch_size=20)
    (batch,) = audio_noise_dataloader(section)
    seeds = dict.fromkeys(zip(batch.sample_id, batch.seeds.tolist()))
    assert len(seeds) == 20 and len(set(batch.sample_id)) < 20


def test_nemos_concatenated_data_set_is_a_stream_with_the_augmentor(corpora):
    section = corpora(concat_sampling_technique="round-robin", batch_size=2)
    stream = get_audio_noise_dataset_from_config(section)
    assert isinstance(stream, IterableDataset)
    items = list(stream)
    assert len(items) == len(stream) == 10
    assert len(stream.collate_fn(items[:3])) == 3


# ---------------------------------------------------------------------------------------------------- tar shards


def test_tar_shards_give_the_utterances_once_in_any_order_on_any_ranks(shards):
    for ranks in (1, 2, 3):
        parts = [read(shards(), rank=rank, ranks=ranks) for rank in range(ranks)]
        assert len({len(part) for part in parts}) == 1
        assert sorted(flat(map(flat, parts))) == [str(i) for i in range(6)]
    assert flat(read(shards(), epoch=0)) != flat(read(shards(), epoch=1))


def test_replicated_shards_are_read_as_often_as_there_are_ranks(shards):
    section = shards(tarred_shard_strategy="replicate")
    parts = [read(section, rank=rank, ranks=2) for rank in range(2)]
    assert Counter(flat(map(flat, parts))) == {str(i): 2 for i in range(6)}
    assert Counter(flat(read(section))) == {str(i): 1 for i in range(6)}


# ---------------------------------------------------------------------------------------------------- buckets


@pytest.mark.parametrize("strategy", ["fixed_order", "synced_randomized", "fully_randomized"])
def test_a_batch_is_of_one_bucket_whatever_the_strategy(buckets, strategy):
    batches = read(buckets(bucketing_strategy=strategy, batch_size=3))
    assert all(len({int(name) >= 4 for name in batch}) == 1 for batch in batches)
    assert sorted(flat(batches), key=int) == [str(i) for i in range(10)]


def test_bucketing_strategies_order_buckets_differently(buckets):
    def order(strategy: str, epoch: int) -> tuple[bool, ...]:
        section = buckets(bucketing_strategy=strategy, batch_size=2)
        return tuple(int(batch[0]) >= 4 for batch in read(section, epoch))

    epochs = range(6)
    assert {order("fixed_order", e) for e in epochs} == {(False, False, True, True, True)}
    synced = {order("synced_randomized", e) for e in epochs}
    assert synced == {(False, False, True, True, True), (True, True, True, False, False)}
    assert len({order("fully_randomized", e) for e in epochs}) > 2


def test_bucketing_batch_size_and_weights_are_those_of_each_bucket(buckets):
    section = buckets(batch_size=1, bucketing_batch_size=[4, 2], bucketing_strategy="fixed_order")
    assert [len(batch) for batch in read(section)] == [4, 2, 2, 2]
    weighted = read(section | {"bucketing_weights": [2, 1]})
    assert [len(batch) for batch in weighted] == [4, 4, 2, 2, 2]


def test_what_only_streams_and_training_use_is_said(corpora, shards, log):
    log.set_level("INFO")
    audio_noise_dataloader(shards(shuffle_n=8, bucketing_batch_size=2))
    assert "model.train_ds.shuffle_n=8 has no effect: all samples are shuffled" in log.text
    assert "model.train_ds.bucketing_batch_size=2 has no effect without buckets" in log.text
    section = corpora(concat_sampling_technique="round-robin", max_rejected_share=0.1)
    section["manifest_filepath"] = section["manifest_filepath"][:1]
    audio_noise_dataloader(section, training=False, path="model.validation_ds")
    assert "model.validation_ds.max_rejected_share=0.1 has no effect: it stops training only" in log.text
    assert "model.validation_ds.is_concat=true has one manifest" in log.text


def test_batch_duration_makes_buckets_of_its_own(buckets):
    with pytest.raises(ValueError, match=r"model\.train_ds\.bucketing_strategy='fixed_order' has no effect with"):
        audio_noise_dataloader(buckets(bucketing_strategy="fixed_order", batch_duration=1.0))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bucketing_weights": [1]}, r"bucketing_weights=\[1\] has 1 numbers for 2 buckets"),
        ({"bucketing_weights": [1, 0]}, r"bucketing_weights=\[1, 0\] is not a list of whole numbers above 0, or null"),
        ({"bucketing_batch_size": [2]}, r"bucketing_batch_size=\[2\] has 1 numbers for 2 buckets"),
        ({"bucketing_batch_size": 2, "batch_size": 4}, r"bucketing_batch_size=2 sizes the batches"),
    ],
)
def test_wrong_buckets_are_one_line_with_the_key(buckets, changes, said):
    with pytest.raises(ValueError, match=rf"^model\.train_ds\.{said}") as caught:
        audio_noise_dataloader(buckets(batch_size=1) | changes)
    assert "\n" not in str(caught.value)


def test_as_many_tar_files_as_manifests_are_needed(buckets):
    section = buckets()
    section["manifest_filepath"] = section["manifest_filepath"][:1]
    with pytest.raises(ValueError, match=r"^model\.train_ds\.manifest_filepath has 1 buckets and .* 2"):
        audio_noise_dataloader(section)
