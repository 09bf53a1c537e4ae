import numpy as np
import pytest

from data.samplers import Draw, EpochSampler


def drawn(total, world_size, epoch=0, **options):
    """Draws of every rank: list of ranks, each a list of Draw."""
    ranks = []
    for rank in range(world_size):
        defaults = {"shuffle": True, "seed": 0, "drop_last": False}
        sampler = EpochSampler(range(total), **(defaults | options), global_rank=rank, world_size=world_size)
        sampler.set_epoch(epoch)
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler)
    return ranks


@pytest.mark.parametrize("total", [1, 6, 7, 8])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_each_utterance_is_drawn_once_per_epoch_and_all_ranks_draw_equally_often(total, world_size):
    ranks = drawn(total, world_size)
    assert len({len(rank) for rank in ranks}) == 1
    indices = [draw.index for rank in ranks for draw in rank if draw.index is not None]
    assert sorted(indices) == list(range(total))


def test_drop_last_leaves_out_what_does_not_divide_and_draws_nothing_empty():
    ranks = drawn(8, 3, drop_last=True)
    indices = [draw.index for rank in ranks for draw in rank]
    assert [len(rank) for rank in ranks] == [2, 2, 2] and len(set(indices)) == 6 and None not in indices


def test_order_depends_on_seed_and_epoch_alone():
    order = drawn(20, 1)[0]
    assert drawn(20, 1)[0] == order
    other_epoch = drawn(20, 1, epoch=1)[0]
    assert {d.epoch for d in other_epoch} == {1}
    assert [d.index for d in other_epoch] != [d.index for d in order]
    assert drawn(20, 1, seed=1)[0] != order


def test_more_ranks_deal_out_the_same_order():
    one = drawn(20, 1)[0]
    two = drawn(20, 2)
    assert [draw for pair in zip(*two, strict=True) for draw in pair] == one


def test_without_shuffling_the_manifest_is_followed():
    assert drawn(3, 1, shuffle=False)[0] == [Draw(0, 0), Draw(0, 1), Draw(0, 2)]


def test_a_fixed_epoch_stays_zero():
    assert drawn(5, 1, epoch=3, fixed_epoch=True) == drawn(5, 1, epoch=0)


def test_the_order_does_not_reuse_the_random_stream_of_an_utterance():
    sampler = EpochSampler(range(9), shuffle=True, seed=0, drop_last=False)
    first_utterance = np.random.default_rng((0, 0, 0)).permutation(9)  # (0, 0) alone would be this stream
    assert sampler.order().tolist() != first_utterance.tolist()
