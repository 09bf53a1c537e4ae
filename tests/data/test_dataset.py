import pickle
from collections import Counter

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset, IterableDataset

from data.dataset import SHARES, ConcatDataset


class Numbers(Dataset):
    """Items (name, 0) to (name, size - 1)."""

    def __init__(self, name: str, size: int):
        self.name, self.size = name, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[str, int]:
        return self.name, int(index)


class NumbersInTurn(IterableDataset):
    def __init__(self, name: str, size: int, length: int | None = None):
        self.name, self.size, self.length = name, size, size if length is None else length

    def __len__(self) -> int:
        return self.length

    def __iter__(self):
        return iter([(self.name, number) for number in range(self.size)])


def first(batch: list) -> object:
    return batch[0]


def test_round_robin_takes_turns_and_starts_short_sets_again():
    mixed = ConcatDataset([Numbers("a", 4), Numbers("b", 2)], shuffle=False, sampling_technique="round-robin")
    assert list(mixed) == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("a", 3)]


@pytest.mark.parametrize("technique", SHARES)
@pytest.mark.parametrize("kind", [Numbers, NumbersInTurn])
def test_every_epoch_has_all_its_items(technique, kind):
    mixed = ConcatDataset([kind("a", 500), kind("b", 500)], sampling_technique=technique, seed=1, world_size=1)
    epochs = [list(mixed) for _ in range(4)]
    assert [len(epoch) for epoch in epochs] == [1000] * 4
    assert all(len(set(epoch)) > 900 for epoch in epochs)  # NeMo has 500, 250, 125 with two ranks


def test_ranks_share_out_sets_by_index_and_keep_their_parts():
    sets = [Numbers("a", 7), Numbers("b", 4)]
    parts = [
        ConcatDataset(sets, sampling_technique="round-robin", sampling_scale=3, global_rank=rank, world_size=2)
        for rank in range(2)
    ]
    assert [len(part) for part in parts] == [15, 15]
    for _ in range(3):
        seen = [set(part) for part in parts]
        assert seen[0] == {("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)}
        assert seen[1] == {("a", 3), ("a", 4), ("a", 5), ("a", 6), ("b", 2), ("b", 3)}  # the last takes the rest


def test_temperature_flattens_the_shares_of_the_sets():
    for temperature, expected in ((1, 0.9), (2, 0.75), (5, 0.608)):
        mixed = ConcatDataset(
            [Numbers("a", 900), Numbers("b", 100)], sampling_temperature=temperature, seed=0, sampling_scale=5
        )
        share = Counter(name for name, _ in mixed)["a"] / 5000
        assert share == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 5000))


def test_a_rank_without_items_ends_instead_of_waiting_for_ever():
    assert list(ConcatDataset([Numbers("a", 0), Numbers("b", 0)], sampling_technique="random")) == []
    assert list(ConcatDataset([NumbersInTurn("a", 0, length=3)], sampling_technique="round-robin")) == []


@pytest.mark.parametrize("technique", SHARES)
def test_a_worker_without_items_ends_instead_of_waiting_for_ever(technique):
    mixed = ConcatDataset([Numbers("a", 1), Numbers("b", 1)], sampling_technique=technique, seed=0)
    items = list(DataLoader(mixed, batch_size=1, num_workers=2, collate_fn=first))
    assert len(items) == 1 and items[0] in {("a", 0), ("b", 0)}  # NeMo's second worker has none, and hangs


def test_it_can_be_sent_to_a_spawned_worker():
    mixed = ConcatDataset([Numbers("a", 3), Numbers("b", 5)], seed=3, shuffle=False)
    assert list(pickle.loads(pickle.dumps(mixed))) == list(mixed)


def test_it_collates_as_its_first_set_does():
    one = Numbers("a", 3)
    one.collate_fn = len
    assert ConcatDataset([one, Numbers("b", 1)]).collate_fn([1, 2, 3]) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling_technique": "none"}, "sampling_technique='none' is not one of"),
        ({"sampling_temperature": 0}, "sampling_temperature=0 is not a number above 0"),
        ({"sampling_scale": -1}, "sampling_scale=-1 is not a number above 0"),
        ({"sampling_probabilities": [1.0]}, "has 1 values for 2 data sets"),
        ({"sampling_probabilities": [0.5, 0.6]}, "has the sum 1.1"),
        ({"sampling_probabilities": [1.5, -0.5]}, "give values from 0"),
        ({"sampling_probabilities": ["a", "b"]}, "is not a list of numbers"),
        ({"global_rank": 2, "world_size": 2}, "global_rank=2"),
    ],
)
def test_wrong_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message) as error:
        ConcatDataset([Numbers("a", 3), Numbers("b", 1)], **options)
    assert "\n" not in str(error.value)


def test_sets_of_two_kinds_are_refused():
    with pytest.raises(ValueError, match=r"two kinds \(Numbers, NumbersInTurn\)"):
        ConcatDataset([Numbers("a", 3), NumbersInTurn("b", 1)])
    with pytest.raises(ValueError, match="nothing to draw from"):
        ConcatDataset([])


def test_probabilities_that_sum_to_nearly_one_are_used():
    mixed = ConcatDataset(
        [Numbers("a", 3)] * 3, sampling_technique="random", sampling_probabilities=[0.3333333] * 3, seed=0
    )
    assert len(list(mixed)) == 9
