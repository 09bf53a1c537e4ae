from types import SimpleNamespace

import pytest
import torch
from torch import nn

from utils.training.tensor_checks import copy_all, first_not_finite, norm, peak, running_statistics

NOT_FINITE = [float("nan"), float("inf"), -float("inf")]


def test_the_norm_is_that_of_all_values_together():
    assert norm([torch.tensor([3.0]), torch.tensor([[4.0]], dtype=torch.bfloat16)]) == 5.0
    assert norm([]) == 0.0


@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_value_that_is_not_finite_shows_in_norm_and_peak(value):
    assert not norm([torch.zeros(2), torch.tensor([1.0, value])]).isfinite()
    assert not peak(SimpleNamespace(audio=torch.tensor([[0.5, value]]))).isfinite()


def test_the_peak_is_that_of_either_signal():
    batch = SimpleNamespace(audio=torch.tensor([[0.5, -0.75]]), noisy_audio=torch.tensor([[0.25]]))
    assert peak(batch) == 0.75
    assert peak(SimpleNamespace(audio=torch.zeros(2, 0))) == peak(object()) == 0.0


@pytest.mark.parametrize("value", NOT_FINITE)
def test_the_first_weight_that_is_not_finite_is_named(value):
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert first_not_finite(module) == ""
    with torch.no_grad():
        module[1].weight[1, 0] = module[1].bias[0] = value
    assert first_not_finite(module) == "1.weight"


def test_running_statistics_are_put_back_as_they_were():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.LayerNorm(3))
    statistics = running_statistics(module)
    before = [buffer.clone() for buffer in statistics]
    module(torch.randn(4, 3))
    assert not any(torch.equal(a, b) for a, b in zip(before, statistics, strict=True))
    copy_all(before, statistics)
    assert len(statistics) == 3 and all(map(torch.equal, before, module.buffers()))
