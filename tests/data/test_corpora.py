import time
from collections import Counter

import numpy as np
import pytest
import torch

from core.classes import Dataset
from data.corpora import Corpora, corpus_order
from data.samplers import Draw
from parts.batch_types import AudioNoiseItem, BadSample

TECHNIQUES = ("round-robin", "random", "temperature")


class Corpus(Dataset):
    """Item i holds i; the seed tells which epoch it was drawn in."""

    def __init__(self, size: int, value: int, rejected: tuple[BadSample, ...] = ()):
        self.size, self.value, self.rejected_lines = size, value, rejected
        self.durations = np.full(size, float(value))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, draw: Draw) -> AudioNoiseItem:
        if draw.index is None:
            return AudioNoiseItem()
        return AudioNoiseItem(str(draw.index), torch.tensor([self.value, draw.index, draw.epoch]), seed=draw.epoch)

    def _collate_fn(self, batch: list) -> tuple:
        return self.value, len(batch)


@pytest.fixture
def corpora() -> Corpora:
    bad = BadSample("x.wav", "bad_entry", "", "m.json", 3)
    return Corpora([Corpus(3, 10), Corpus(0, 20), Corpus(2, 30, (bad,))])


def order_of(sizes, technique, seed=0, **options):
    return corpus_order(sizes, technique, **options)(np.random.default_rng(seed))


def test_indices_run_through_one_corpus_after_the_other(corpora):
    assert (len(corpora), corpora.sizes) == (5, [3, 0, 2])
    items = [corpora[index] for index in range(5)]
    assert [item.audio.tolist() for item in items] == [[10, 0, 0], [10, 1, 0], [10, 2, 0], [30, 0, 0], [30, 1, 0]]
    assert [item.sample_id for item in items] == ["0", "1", "2", "3", "4"]
    assert corpora.durations.tolist() == [10, 10, 10, 30, 30]
    with pytest.raises(IndexError, match="index 5"):
        corpora[5]


def test_a_draw_keeps_its_epoch_and_a_filler_stays_one(corpora):
    assert corpora[Draw(7, 4)].audio.tolist() == [30, 1, 7]
    assert corpora[Draw(7, None)].audio is None


def test_all_corpora_share_one_collate_and_tell_their_bad_lines(corpora):
    assert corpora.collate_fn([1, 2]) == (10, 2)
    assert [bad.path for bad in corpora.rejected_lines] == ["x.wav"]
    assert len(Corpora([corpora.datasets[2]] * 3).rejected_lines) == 1  # a bucket listed three times, by weight


def test_round_robin_goes_through_each_utterance_once_and_takes_turns():
    plain = order_of([4, 2, 1], "round-robin", shuffle=False)
    assert plain.tolist() == [0, 4, 6, 1, 5, 2, 3]
    shuffled = order_of([50, 20, 1], "round-robin")
    assert sorted(shuffled) == list(range(71))
    assert ((shuffled[:40:2] < 50) != (shuffled[1:40:2] < 50)).sum() >= 18  # in turn, but for the set of one
    assert not np.array_equal(shuffled, order_of([50, 20, 1], "round-robin", seed=1))


@pytest.mark.parametrize(("scale", "counts"), [(2, {2}), (3, {3}), (1.5, {1, 2})])
def test_scale_walks_through_all_corpora_that_many_times(scale, counts):
    order = order_of([40, 10], "round-robin", scale=scale)
    assert len(order) == 50 * scale
    assert set(Counter(order.tolist()).values()) == counts
    assert (order >= 40).sum() == 10 * scale


def test_half_a_scale_takes_half_of_each_corpus():
    order = order_of([40, 10], "round-robin", scale=0.5)
    assert len(set(order.tolist())) == 25
    assert (order >= 40).sum() == 5


@pytest.mark.parametrize("technique", ["random", "temperature"])
def test_a_corpus_comes_again_only_when_it_has_been_walked_through(technique):
    order = order_of([100, 7], technique)
    small = order[order >= 100]
    laps = [small[start : start + 7] for start in range(0, len(small) - 6, 7)]
    assert len(laps) >= 2
    assert all(sorted(lap) == list(range(100, 107)) for lap in laps)
    assert len({tuple(lap) for lap in laps}) > 1  # newly shuffled


@pytest.mark.parametrize(
    ("technique", "options", "share"),
    [
        ("random", {"probabilities": [0.7, 0.3]}, 0.7),
        ("random", {}, 0.5),
        ("temperature", {"temperature": 1}, 0.9),
        ("temperature", {"temperature": 2}, 0.75),
    ],
)
def test_corpora_are_drawn_with_their_shares(technique, options, share):
    order = order_of([9000, 1000], technique, **options)
    assert (order < 9000).mean() == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_an_order_has_the_same_length_in_each_epoch(technique):
    order = corpus_order([13, 5, 1], technique, scale=1.7)
    assert {len(order(np.random.default_rng(epoch))) for epoch in range(20)} == {len(order)} == {int(19 * 1.7)}


def test_with_a_seed_the_same_corpora_come_in_each_epoch():
    def corpora_of(epoch: int, seed: int | None) -> np.ndarray:
        return corpus_order([60, 40], "random", seed=seed)(np.random.default_rng(epoch)) < 60

    assert np.array_equal(corpora_of(0, seed=5), corpora_of(1, seed=5))
    assert not np.array_equal(corpora_of(0, seed=None), corpora_of(1, seed=None))


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_million_utterances_are_ordered_in_a_second(technique):
    order = corpus_order([700_000, 299_000, 1_000], technique)
    start = time.perf_counter()
    order(np.random.default_rng(0))
    assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([3, 2], {"technique": "fair"}, "train.concat_sampling_technique='fair' is not one of"),
        ([3, 2], {"technique": "temperature", "temperature": -1}, "train.concat_sampling_temperature=-1"),
        ([3, 2], {"technique": "random", "probabilities": [0.5]}, "train.concat_sampling_probabilities=.* for 2"),
        ([3, 2], {"technique": "random", "probabilities": [0.5, 0.4]}, "has the sum 0.9"),
        ([3, 2], {"technique": "random", "scale": 0}, "train.concat_sampling_scale=0 is not"),
        ([3, 2], {"technique": "random", "scale": 0.1}, "train.concat_sampling_scale=0.1 leaves none of 5"),
        ([3, 0], {"technique": "random"}, "corpus 2 of 2 has no utterances"),
    ],
)
def test_wrong_options_are_refused_by_name(sizes, options, message):
    with pytest.raises(ValueError, match=message):
        corpus_order(sizes, **options, config_path="train")


def test_no_technique_is_round_robin_and_says_so(caplog):
    assert sorted(order_of([3, 2], None)) == [0, 1, 2, 3, 4]
    assert "round-robin" in caplog.text
