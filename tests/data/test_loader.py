import logging
import multiprocessing
import pickle
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from data.batching import Buckets
from data.loader import Batches, ResumableLoader, build_loader, unchanged
from data.samplers import Draw, as_listed, shuffled
from data.settings import DatasetSettings
from parts.batch_types import AudioNoiseBatch, BadSample
from utils.loaders import from_loaders, num_samples
from utils.logging import logger

EXAMPLES = example_settings(max_examples=25, deadline=None, derandomize=True)


class Toy(Dataset):
    """Utterances of 1, 2, 3, ... seconds, whose batches name what was drawn for them."""

    rejected_lines = (BadSample("a.wav", "bad_entry", "no path", "m.json", 3),)

    def __init__(self, total: int):
        self.durations = np.arange(1.0, total + 1)

    def __len__(self) -> int:
        return len(self.durations)

    def __getitem__(self, draw: Draw) -> str:
        return "nothing" if draw.index is None else f"{draw.epoch}-{draw.index}-{draw.turn}"

    def collate_fn(self, items: list[str]) -> AudioNoiseBatch:
        return AudioNoiseBatch(sample_id=items)


def loader(total=20, order: Callable | None = None, buckets=None, rank=0, world_size=1, **section) -> ResumableLoader:
    values = {"sample_rate": 16000, "batch_size": 3, "shuffle": True} | section
    return build_loader(
        Toy(total),
        DatasetSettings(**values),
        order=order or shuffled(total),
        buckets=buckets,
        global_rank=rank,
        world_size=world_size,
    )


def epoch_of(one: ResumableLoader, epoch: int = 0) -> list[list[str]]:
    one.sampler.set_epoch(epoch)
    return [batch.sample_id for batch in one]


# ---------------------------------------------------------------------------------------------------- workers


@pytest.mark.parametrize("num_workers", [1, 4])
def test_batches_are_the_same_for_any_number_of_workers(num_workers):
    alone, helped = loader(), loader(num_workers=num_workers)
    for epoch in (0, 1, 5):  # the later ones reach workers that live on
        assert epoch_of(helped, epoch) == epoch_of(alone, epoch)
    assert len(epoch_of(alone)) == len(alone) == 7


@pytest.mark.slow
@pytest.mark.parametrize("start_method", sorted(multiprocessing.get_all_start_methods()))
def test_workers_are_started_in_any_way(start_method):
    alone = loader()
    helped = ResumableLoader(
        alone.dataset,
        batch_size=None,
        sampler=alone.sampler,
        collate_fn=unchanged,
        num_workers=1,
        multiprocessing_context=start_method,
    )
    assert epoch_of(helped) == epoch_of(alone)


def test_what_a_worker_gets_can_be_pickled():
    one = loader(batch_duration=30.0)
    data_set, collate = pickle.loads(pickle.dumps((one.dataset, one.collate_fn)))
    draws = next(iter(one.sampler))
    assert collate(data_set[draws]).sample_id == one.dataset[draws].sample_id


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_leaves_the_global_generators_alone(num_workers):
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    epoch_of(loader(num_workers=num_workers))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_epoch_is_that_of_the_first_batch_and_not_of_the_iterator(num_workers):
    one = loader(num_workers=num_workers)
    batches = iter(one)
    one.sampler.set_epoch(4)  # what Lightning does
    assert [batch.sample_id for batch in batches] == epoch_of(loader(), 4)


def test_a_batch_knows_how_long_it_was_waited_for(monkeypatch):
    monkeypatch.setattr(Toy, "collate_fn", lambda self, items: time.sleep(0.02) or AudioNoiseBatch(sample_id=items))
    waits = [batch.seconds["wait"] for batch in loader()]
    assert len(waits) == 7 and min(waits) >= 0.02 and sum(waits) < 2


# ---------------------------------------------------------------------------------------------------- resume


@given(st.integers(1, 30), st.integers(1, 3), st.integers(1, 3), st.integers(0, 12), st.integers(0, 2), st.booleans())
@EXAMPLES
def test_interrupted_anywhere_a_loader_resumes_with_the_rest(total, before, after, stop, epoch, bucketed):
    section = {"batch_duration": 40.0} if bucketed else {}
    seen, state = [], None
    for rank in range(before):
        stopped = loader(total, rank=rank, world_size=before, **section)
        stopped.sampler.set_epoch(epoch)
        seen += [name for _, batch in zip(range(stop), stopped, strict=False) for name in batch.sample_id]
        assert state is None or stopped.state_dict() == state  # one state for all ranks
        state = stopped.state_dict()
    rest = []
    for rank in range(after):
        resumed = loader(total, rank=rank, world_size=after, **section)
        resumed.load_state_dict(state)
        rest += [name for batch in epoch_of(resumed, epoch) for name in batch]
    used = [name for name in seen + rest if name != "nothing"]
    assert sorted(used) == sorted(f"{epoch}-{i}-0" for i in range(total))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_that_workers_read_ahead_are_not_lost(num_workers):
    stopped = loader(num_workers=num_workers)
    batches = iter(stopped)
    seen = [next(batches).sample_id for _ in range(2)]
    time.sleep(0.05)  # for workers to read ahead
    resumed = loader(num_workers=num_workers)
    resumed.load_state_dict(stopped.state_dict())
    assert seen + epoch_of(resumed) == epoch_of(loader())
    assert epoch_of(resumed, 1) == epoch_of(loader(), 1)


def test_the_state_before_the_last_batch_gives_that_batch_again():
    stopped = loader()
    batches = iter(stopped)
    next(batches), next(batches)
    resumed = loader()
    resumed.load_state_dict({"now": stopped.state_dict()["before_last"]})
    assert epoch_of(resumed) == epoch_of(loader())[1:]


def test_a_state_is_plain_data_that_a_weights_only_checkpoint_holds(tmp_path):
    one = loader(batch_duration=20.0)
    next(iter(one))
    torch.save(one.state_dict(), tmp_path / "state.ckpt")
    assert torch.load(tmp_path / "state.ckpt", weights_only=True) == one.state_dict()


@pytest.mark.parametrize("change", [{"batch_size": 2}, {"batch_duration": 30.0}, {"shuffle": False}, {"seed": 3}])
def test_a_change_of_options_is_called_by_its_key(change, caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    stopped = loader()
    next(iter(stopped))
    resumed = loader(**change)
    with caplog.at_level(logging.WARNING):
        resumed.load_state_dict(stopped.state_dict())
    (key,) = change
    assert f"{key} was" in caplog.text and epoch_of(resumed) == epoch_of(loader(**change))


# ---------------------------------------------------------------------------------------------------- other samplers


def test_under_another_sampler_a_number_is_a_batch_of_the_first_epoch():
    ours = loader()
    ours.sampler.set_epoch(3)
    theirs = ResumableLoader(
        ours.dataset, batch_size=None, sampler=SequentialSampler(ours.dataset), collate_fn=unchanged
    )
    assert epoch_of(loader()) == [batch.sample_id for batch in theirs]
    assert theirs.state_dict() == {} and theirs.standing() is None
    theirs.load_state_dict(ours.state_dict())


# ---------------------------------------------------------------------------------------------------- building


def test_rejected_lines_and_their_limit_are_found_in_the_loader():
    one = loader(max_rejected_share=0.25)
    again = ResumableLoader(one.dataset, batch_size=None, sampler=one.sampler)  # as Lightning makes one anew
    for found in (one, again):
        assert from_loaders(found, "rejected_lines") == [Toy.rejected_lines]
        assert from_loaders(found, "max_rejected_share") == [0.25] and num_samples(found) == 20


def sizes(one: ResumableLoader) -> list[int]:
    return [len(batch) for batch in epoch_of(one)]


def test_a_section_decides_about_the_batches():
    listed = as_listed(8)
    assert sizes(loader(8, listed)) == [3, 3, 2] and sizes(loader(8, listed, drop_last=True)) == [3, 3]
    by_duration = {"batch_duration": 8.0, "num_buckets": 2, "shuffle": False}  # 1 to 5 s, 6 to 8 s
    assert sizes(loader(8, listed, **by_duration | {"batch_size": None})) == [1] * 8
    assert sizes(loader(8, listed, **by_duration | {"batch_duration": 10.0})) == [1, 2, 2, 1, 1, 1]
    assert sizes(loader(8, listed, **by_duration | {"batch_duration": 10.0, "batch_size": 1})) == [1] * 8
    assert sizes(loader(8, listed, **by_duration | {"batch_duration": 10.0, "quadratic_duration": 1.0})) == [1] * 8
    buckets = Buckets(np.array([0, 0, 0, 0, 0, 1, 1, 1]), np.array([4, 2]), "fixed_order", even=False)
    assert sizes(loader(8, listed, buckets=buckets)) == [4, 1, 2, 1]


def test_utterances_are_as_long_as_they_are_made():
    """Below min_audio_len_secs they are lengthened, so that many of them are no small batch."""
    assert max(sizes(loader(8, batch_size=None, batch_duration=8.0, min_audio_len_secs=4.0))) == 2


def test_an_unreadable_utterance_has_its_turn_among_the_short_ones(monkeypatch):
    durations = np.array([np.nan, 1.0, 1.0, 9.0])
    monkeypatch.setattr(Toy, "durations", durations, raising=False)
    monkeypatch.setattr(Toy, "__init__", lambda self, total: None)
    one = loader(4, as_listed(4), batch_size=None, batch_duration=10.0, shuffle=False)
    assert epoch_of(one) == [["0-0-0", "0-1-0", "0-2-0"], ["0-3-0"]]


def test_too_few_utterances_for_one_batch_is_an_error_with_the_remedy():
    with pytest.raises(ValueError, match=r"2 utterances don't fill one batch of batch_size=3; lower"):
        loader(2, drop_last=True)
    with pytest.raises(ValueError, match=r"5 utterances don't fill one batch of batch_size=3 for each of 2 ranks"):
        loader(5, drop_last=True, world_size=2)
    with pytest.raises(ValueError, match=r"of batch_duration=99.0 for each of 8 ranks; lower batch_duration"):
        loader(5, drop_last=True, world_size=8, batch_duration=99.0)


def test_the_planned_padding_is_logged(caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.INFO):
        loader(4, as_listed(4), batch_size=2)
    assert "4 utterances, 2 batches per epoch; padding 16.7%" in caplog.text  # 2 of 12 s


def test_pinning_needs_cuda(monkeypatch):
    for has_cuda in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=has_cuda: answer)
        assert loader(pin_memory=True).pin_memory is has_cuda and loader(pin_memory=False).pin_memory is False


def test_it_is_a_loader_of_torch_over_whole_batches():
    one = loader(num_workers=2)
    assert isinstance(one, DataLoader) and isinstance(one.dataset, Batches) and one.batch_size is None
    assert one.persistent_workers and not loader().persistent_workers
