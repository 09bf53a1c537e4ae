import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batching import Buckets, FixedSize, duration_buckets
from data.samplers import Draw, EpochSampler, ResumableSampler, as_listed, shuffled, split
from utils.logging import logger

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)


def sampler(total=20, rank=0, world_size=1, batch_size=3, order=None, **options) -> EpochSampler:
    defaults = {"batching": FixedSize(batch_size), "order": order or shuffled(total), "seed": 0}
    return EpochSampler(range(total), **(defaults | options), global_rank=rank, world_size=world_size)


def drawn(total=20, world_size=1, epoch=0, state=None, **options) -> list[list[tuple[Draw, ...]]]:
    """The batches of every rank in one epoch, or in the rest of one."""
    ranks = []
    for rank in range(world_size):
        one = sampler(total, rank, world_size, **options)
        if state is not None:
            one.load_state_dict(state)
        one.set_epoch(epoch)
        ranks.append(list(one))
        assert state is not None or len(ranks[-1]) == len(one)
    return ranks


def indices(ranks: list[list[tuple[Draw, ...]]]) -> list[int]:
    return [draw.index for rank in ranks for batch in rank for draw in batch if draw.index is not None]


def stopped_after(batches: int, total=20, world_size=1, epoch=0, **options) -> dict:
    """State of rank 0 when this many batches were handed out in the epoch."""
    one = sampler(total, 0, world_size, **options)
    one.set_epoch(epoch)
    for _ in zip(range(batches), one, strict=False):
        one.batch_given()
    return one.state_dict()


def ragged(total: int, seed: int) -> Buckets:
    durations = np.random.default_rng(seed).gamma(2.0, 4.0, total) + 0.5
    return duration_buckets(durations, batch_duration=40, num_buckets=4)


# ---------------------------------------------------------------------------------------------------- an epoch


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 6), st.integers(0, 3), st.booleans())
@EXAMPLES
def test_ranks_partition_each_epoch_and_have_equally_many_batches(total, batch_size, world_size, epoch, bucketed):
    batching = ragged(total, epoch) if bucketed else FixedSize(batch_size)
    ranks = drawn(total, world_size, epoch, batching=batching)
    assert len({len(rank) for rank in ranks}) == 1
    assert sorted(indices(ranks)) == list(range(total))
    assert {draw.epoch for rank in ranks for batch in rank for draw in batch} == {epoch}


@given(st.integers(1, 60), st.integers(1, 6))
@EXAMPLES
def test_more_ranks_deal_out_the_same_plan(total, world_size):
    plan = drawn(total)[0]
    ranks = drawn(total, world_size)
    whole = len(plan) // world_size
    assert [batch for group in zip(*ranks, strict=True) for batch in group][: whole * world_size] == (
        plan[: whole * world_size]
    )


def test_drop_last_leaves_out_the_batches_that_do_not_go_round():
    ranks = drawn(21, 2, drop_last=True)  # 7 batches of 3
    assert [list(map(len, rank)) for rank in ranks] == [[3, 3, 3], [3, 3, 3]]
    assert len(set(indices(ranks))) == 18 and None not in indices(ranks)


def test_the_last_batches_are_split_among_the_ranks_and_never_joined():
    last = [rank[-1] for rank in drawn(16, 4, order=as_listed(16))]  # 6 batches: 4, then 3 utterances and 1
    assert [[draw.index for draw in batch] for batch in last] == [[12], [13], [14], [15]]
    last = [rank[-1] for rank in drawn(5, 8, order=as_listed(5))]  # more ranks than utterances
    assert all(len(batch) == 1 for batch in last)
    assert sorted(str(draw.index) for (draw,) in last) == ["0", "1", "2", "3", "4", "None", "None", "None"]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 12))
@EXAMPLES
def test_split_pieces_are_those_there_were_cut(sizes, more):
    ends = np.cumsum(sizes)
    pieces = [range(int(end) - size, int(end)) for end, size in zip(ends, sizes, strict=True)]
    cut = split(pieces, len(pieces) + more)
    assert len(cut) == len(pieces) + more and [i for piece in cut for i in piece] == list(range(sum(sizes)))
    assert all(any(set(piece) <= set(whole) for whole in pieces) for piece in cut)


def test_order_depends_on_seed_and_epoch_alone():
    order = indices(drawn())
    assert indices(drawn()) == order
    assert indices(drawn(epoch=1)) != order and indices(drawn(seed=1)) != order


def test_as_listed_the_manifest_is_followed():
    assert drawn(4, order=as_listed(4))[0] == [(Draw(0, 0), Draw(0, 1), Draw(0, 2)), (Draw(0, 3),)]


def test_a_fixed_epoch_stays_zero():
    assert drawn(epoch=3, fixed_epoch=True) == drawn(epoch=0)


def test_the_order_does_not_reuse_the_random_stream_of_an_utterance():
    first_utterance = np.random.default_rng((0, 0, 0)).permutation(9)  # (0, 0) alone would be this stream
    assert indices(drawn(9)) != first_utterance.tolist()


def test_a_second_pass_is_a_whole_one_also_when_the_first_was_left():
    one = sampler()
    first = list(one)
    next(iter(one))
    one.batch_given()
    assert list(one) == first


# ---------------------------------------------------------------------------------------------------- repeated draws


class AtRandom:
    """12 draws of 5 utterances."""

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(5, size=12)


def test_repeated_utterances_have_their_turn():
    draws = [draw for batch in drawn(5, order=AtRandom())[0] for draw in batch]
    for place, draw in enumerate(draws):
        assert draw.turn == sum(earlier.index == draw.index for earlier in draws[:place])
    assert len(set(draws)) == 12


def test_epochs_of_random_draws_have_as_many_batches_as_the_first():
    batching = Buckets(np.arange(5), np.array([1, 1, 2, 3, 4]))
    counts = {len(batching(AtRandom()(rng), rng)) for rng in map(np.random.default_rng, range(20))}
    assert len(counts) > 1
    assert len({len(drawn(5, epoch=epoch, order=AtRandom(), batching=batching)[0]) for epoch in range(20)}) == 1


# ---------------------------------------------------------------------------------------------------- resume


@given(
    total=st.integers(1, 40),
    before=st.integers(1, 4),
    after=st.integers(1, 4),
    stop=st.integers(0, 12),
    epoch=st.integers(0, 2),
    bucketed=st.booleans(),
)
@EXAMPLES
def test_any_number_of_ranks_goes_on_so_that_each_utterance_comes_once(total, before, after, stop, epoch, bucketed):
    options = {"batching": ragged(total, epoch) if bucketed else FixedSize(2)}
    state = stopped_after(stop, total, before, epoch, **options)
    seen = [rank[:stop] for rank in drawn(total, before, epoch, **options)]
    rest = drawn(total, after, epoch, state=state, **options)
    assert len({len(rank) for rank in rest}) == 1
    assert sorted(indices(seen) + indices(rest)) == list(range(total))
    if before == after:
        assert rest == [rank[stop:] for rank in drawn(total, before, epoch, **options)]


def test_after_the_rest_of_an_epoch_comes_the_whole_of_the_next():
    one = sampler()
    one.load_state_dict(stopped_after(4))
    assert len(list(one)) == 3 and len(one) == 7
    one.set_epoch(1)
    assert [list(one)] == drawn(epoch=1)


def test_a_finished_epoch_has_no_rest_and_another_epoch_starts_at_its_start():
    state = stopped_after(7)
    assert drawn(state=state) == [[]]
    assert drawn(state=state, epoch=1) == drawn(epoch=1)
    assert drawn(state=stopped_after(2), epoch=1) == drawn(epoch=1)


def test_reading_ahead_does_not_count():
    one = sampler()
    ahead = iter(one)
    next(ahead), one.batch_given(), next(ahead), next(ahead)
    assert one.state_dict()["position"] == 1


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_what_is_done_and_what_is_left_make_an_epoch(world_size, drop_last):
    for batches in range(9):
        one = sampler(29, 0, world_size, drop_last=drop_last)  # 10 batches
        one.load_state_dict(stopped_after(batches, 29))
        epoch, done, is_finished = one.standing()
        left = len(list(one))
        assert epoch == 0 and done + left == len(one) and is_finished == (left == 0)


def test_batches_that_drop_last_leaves_out_do_not_keep_an_epoch_open():
    state = stopped_after(3, 20, 2, drop_last=True)  # 6 of 7 batches
    assert state["position"] == 7 and drawn(state=state) == [[]]


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"total": 21}, "utterances was 20, is 21"),
        ({"batch_size": 2}, "batches was 7, is 10"),
        ({"order": as_listed(20)}, "order was"),
        ({"facts": {"hours": 3}}, "hours was None, is 3"),
    ],
)
def test_other_data_starts_the_epoch_anew_and_says_what_changed(options, change, caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.WARNING):
        rest = drawn(state=stopped_after(3, epoch=2), epoch=2, **options)
    assert change in caplog.text and "epoch 2 starts anew" in caplog.text
    assert rest == drawn(epoch=2, **options)


def test_other_data_after_a_finished_epoch_starts_the_next_one():
    one = sampler(seed=1)
    one.load_state_dict(stopped_after(7, epoch=2))
    assert one.standing() == (3, 0, False)


def test_it_is_what_a_loader_can_resume():
    assert isinstance(sampler(), ResumableSampler)
