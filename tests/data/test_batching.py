from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batching import (
    ARRANGEMENTS,
    Buckets,
    FixedSize,
    Plan,
    bucket_batch_sizes,
    duration_buckets,
    padding_waste,
)
from parts.preprocessing.manifest import keep_durations, read_manifests

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def batches(plan: Plan) -> list[list[int]]:
    return [plan.indices[list(plan.places(k))].tolist() for k in range(len(plan))]


def lengths(total: int, seed: int = 0) -> np.ndarray:
    return rng(seed).gamma(2.0, 4.0, total) + 0.5


# ---------------------------------------------------------------------------------------------------- plans


@given(st.lists(st.integers(1, 4), max_size=12), st.integers(0, 99))
@EXAMPLES
def test_a_reordered_plan_has_the_same_batches(sizes, seed):
    plan = Plan(rng(seed).permutation(sum(sizes)), np.cumsum(sizes, dtype=np.int64))
    new_order = rng(seed + 1).permutation(len(sizes))
    assert batches(plan.reordered(new_order)) == [batches(plan)[k] for k in new_order]


def test_plans_follow_each_other_and_end_early():
    plan = Plan(np.array([4, 2, 0]), np.array([2, 3]))
    assert batches(plan + plan) == [[4, 2], [0], [4, 2], [0]]
    assert batches((plan + plan).first(3)) == [[4, 2], [0], [4, 2]] and batches(plan.first(0)) == []


@given(st.lists(st.integers(0, 5), max_size=30))
@EXAMPLES
def test_a_turn_counts_how_often_an_utterance_came_before(indices):
    plan = Plan(np.array(indices, dtype=np.int64), np.array([len(indices)]))
    assert plan.turns().tolist() == [indices[:i].count(x) for i, x in enumerate(indices)]


# ---------------------------------------------------------------------------------------------------- fixed size


@pytest.mark.parametrize(("drop_last", "expected"), [(False, [[6, 5], [4, 3], [2]]), (True, [[6, 5], [4, 3]])])
def test_a_fixed_size_takes_utterances_as_they_come(drop_last, expected):
    assert batches(FixedSize(2, drop_last)(np.array([6, 5, 4, 3, 2]), rng())) == expected


# ---------------------------------------------------------------------------------------------------- durations


@given(
    total=st.integers(1, 80),
    num_buckets=st.integers(1, 12),
    batch_duration=st.floats(1.0, 200.0),
    quadratic_duration=st.none() | st.floats(5.0, 50.0),
    batch_size=st.none() | st.integers(1, 5),
    shuffle=st.booleans(),
    seed=st.integers(0, 99),
)
@EXAMPLES
def test_duration_batches_hold_each_utterance_once_and_fit(
    total, num_buckets, batch_duration, quadratic_duration, batch_size, shuffle, seed
):
    durations = lengths(total, seed)
    batching = duration_buckets(
        durations,
        batch_duration=batch_duration,
        num_buckets=num_buckets,
        quadratic_duration=quadratic_duration,
        batch_size=batch_size,
        shuffle=shuffle,
    )
    made = [batches(batching(rng(epoch).permutation(total), rng(epoch))) for epoch in range(3)]
    assert len({len(epoch) for epoch in made}) == 1
    for batch in made[0]:
        longest = durations[batch].max()
        cost = longest + (longest**2 / quadratic_duration if quadratic_duration else 0.0)
        assert len(batch) == 1 or (cost * len(batch) <= batch_duration + 1e-6 and len(batch) <= (batch_size or 999))
    assert all(sorted(chain(*epoch)) == list(range(total)) for epoch in made)


def test_a_bucket_holds_as_much_audio_as_another_and_its_lengths_lie_together():
    durations = lengths(4000)
    batching = duration_buckets(durations, batch_duration=100, num_buckets=10)
    audio = np.bincount(batching.bucket_of, weights=durations)
    assert len(audio) == 10 and audio.max() < 1.05 * audio.min()
    by_length = batching.bucket_of[np.argsort(durations)]
    assert (np.diff(by_length) >= 0).all()


def test_long_utterances_come_in_smaller_batches_still_with_the_quadratic_term():
    durations = np.repeat([2.0, 30.0], 60)
    plain = duration_buckets(durations, batch_duration=60, num_buckets=2)
    quadratic = duration_buckets(durations, batch_duration=60, num_buckets=2, quadratic_duration=15)
    assert plain.batch_sizes.tolist() == [30, 2] and quadratic.batch_sizes.tolist() == [26, 1]


def test_equal_lengths_are_one_bucket():
    batching = duration_buckets(np.full(7, 3.0), batch_duration=9.0, num_buckets=30)
    assert batching.bucket_of.tolist() == [0] * 7
    assert sorted(map(len, batches(batching(np.arange(7), rng())))) == [2, 2, 3]


def test_without_shuffling_batches_come_by_their_first_utterance():
    durations = np.array([1.0, 9.0, 1.0, 9.0, 1.0, 9.0])
    batching = duration_buckets(durations, batch_duration=18.0, num_buckets=2, batch_size=2, shuffle=False)
    assert batches(batching(np.arange(6), rng())) == [[0], [1], [2, 4], [3, 5]]


def test_batches_of_all_lengths_are_shuffled_over_the_epoch():
    durations = np.sort(lengths(400))
    plan = duration_buckets(durations, batch_duration=60)(np.arange(400), rng())
    firsts = [batch[0] for batch in batches(plan)]
    half = len(firsts) // 2
    assert abs(np.mean(firsts[:half]) - np.mean(firsts[half:])) < 100  # sorted, they would lie 200 apart


# ---------------------------------------------------------------------------------------------------- given buckets

BUCKET_OF = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2])


@pytest.mark.parametrize(
    ("given", "batch_size", "weights", "sizes"),
    [
        (2, 1, [1, 1, 1], [6, 4, 2]),
        ([5, 3, 1], 1, [1, 1, 1], [5, 3, 1]),
        (None, 4, [1, 1, 1], [4, 4, 4]),
        (2, 1, [2, 1, 1], [8, 8, 6, 4]),  # 4 buckets in all
        ([5, 3], None, [2, 1], [5, 5, 3]),  # the repeated one is listed twice
    ],
)
def test_batch_sizes_of_buckets_are_nemos(given, batch_size, weights, sizes):
    assert bucket_batch_sizes(given, batch_size, weights).tolist() == sizes


@pytest.mark.parametrize(
    ("given", "batch_size", "message"),
    [
        ([5, 3], 1, r"bucketing_batch_size=\[5, 3\] has 2 numbers for 3 buckets"),
        (2, 8, r"set model\.train_ds\.batch_size=1, which is 8"),
    ],
)
def test_sizes_that_do_not_fit_the_buckets_are_refused_by_name(given, batch_size, message):
    with pytest.raises(ValueError, match=message):
        bucket_batch_sizes(given, batch_size, [1, 1, 1])


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_no_batch_has_utterances_of_two_buckets(arrangement):
    for epoch in range(4):
        plan = Buckets(BUCKET_OF, np.array([3, 2, 2]), arrangement, even=False)(rng(epoch).permutation(10), rng(epoch))
        made = batches(plan)
        assert all(len({int(BUCKET_OF[i]) for i in batch}) == 1 for batch in made)
        assert sorted(map(len, made)) == [1, 2, 2, 2, 3] and sorted(chain(*made)) == list(range(10))


def buckets_in_turn(arrangement: str, epoch: int) -> list[int]:
    plan = Buckets(BUCKET_OF, np.array([1, 1, 1]), arrangement)(np.arange(10), rng(epoch))
    return [int(BUCKET_OF[batch[0]]) for batch in batches(plan)]


def test_a_strategy_says_in_which_order_buckets_come():
    assert all(buckets_in_turn("fixed_order", epoch) == BUCKET_OF.tolist() for epoch in range(5))
    synced = [buckets_in_turn("synced_randomized", epoch) for epoch in range(20)]
    assert all(sum(np.diff(turn) != 0) == 2 for turn in synced)  # one bucket after the other ...
    assert len({tuple(turn) for turn in synced}) == 6  # ... in any order
    assert max(sum(np.diff(buckets_in_turn("fully_randomized", epoch)) != 0) for epoch in range(20)) > 2


# ---------------------------------------------------------------------------------------------------- waste


def test_waste_is_the_share_of_padding():
    plan = Plan(np.array([0, 1, 2]), np.array([2, 3]))
    assert padding_waste(plan, np.array([1.0, 3.0, 4.0])) == pytest.approx(2 / 10)
    assert padding_waste(Plan(np.empty(0, int), np.empty(0, int)), np.empty(0)) == 0.0


def test_bucketing_wastes_under_a_tenth_of_the_shared_speech(shared_data):
    table = read_manifests(str(shared_data / "manifests" / "speech_train.json"), "manifest")
    durations = keep_durations(table, 1.0, 60.0, "train_ds").durations
    fixed, bucketed = [], []
    for epoch in range(5):
        order = rng(epoch).permutation(len(durations))
        fixed.append(padding_waste(FixedSize(8)(order, rng(epoch)), durations))
        plan = duration_buckets(durations, batch_duration=60.0)(order, rng(epoch))
        bucketed.append(padding_waste(plan, durations))
    assert max(bucketed) < 0.10 < 0.30 < min(fixed)
