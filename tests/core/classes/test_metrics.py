"""Means over items, batches and ranks."""

import pytest
import torch

from core.classes.metrics import WeightedMeans
from tests.two_ranks import two_ranks


def test_every_item_counts_once():
    means = WeightedMeans()
    means.add("loss", torch.tensor(1.0), 4)
    means.add("loss", torch.tensor(6.0), 1)
    means.add("accuracy", torch.tensor(0.5), 2)
    assert means.pop() == {"accuracy": 0.5, "loss": 2.0}


def test_a_batch_without_items_weighs_nothing_even_if_its_mean_is_no_number():
    means = WeightedMeans()
    means.add("loss", torch.tensor(float("nan")), 0)
    means.add("none", torch.tensor(float("nan")), 0)
    means.add("loss", torch.tensor(2.0), 3)
    assert means.pop() == {"loss": 2.0, "none": 0.0}


def test_each_epoch_starts_over():
    means = WeightedMeans()
    means.add("loss", torch.tensor(1.0), 4)
    means.pop()
    assert means.pop() == {}
    means.add("loss", torch.tensor(3.0), 1)
    assert means.pop() == {"loss": 3.0}


def test_half_precision_sums_are_kept_in_single():
    means = WeightedMeans()
    for _ in range(5000):
        means.add("loss", torch.tensor(1.0, dtype=torch.bfloat16), 1)
    assert means.pop() == {"loss": 1.0}


def rank_main(rank: int) -> dict[str, float]:
    means = WeightedMeans()
    if rank == 0:
        means.add("first", torch.tensor(3.0), 1)
    means.add("both", torch.tensor(float(rank)), 1 + 2 * rank)
    return means.pop()


@pytest.mark.slow
def test_ranks_agree_also_when_one_saw_no_samples_of_a_set():
    assert two_ranks(rank_main) == [{"both": 0.75, "first": 3.0}] * 2
