"""Causes are said when their numbers hold, and only then."""

import math

import pytest
import torch
from torch import Tensor

from tools.parity.diagnosis.causes import constant_ratio, dropped_share, is_padding_only, is_rounded, is_shifted
from tools.parity.diagnosis.evidence import Tensors, close
from tools.parity.diagnosis.training_causes import in_digits, step_losses


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0))


def test_a_constant_factor_is_one_of_all_entries(x):
    assert constant_ratio(4 * x, x) == pytest.approx(4)
    assert constant_ratio(-x, x) == pytest.approx(-1)
    other = 4 * x
    other[0, 3, 2] *= 1.01
    assert constant_ratio(other, x) is None


def test_dropout_is_zeros_and_the_rest_scaled_up(x):
    torch.manual_seed(0)
    assert dropped_share(torch.nn.functional.dropout(x, 0.2), x) == pytest.approx(0.2, abs=1e-5)
    zeros_only = x.masked_fill(torch.rand(x.shape) < 0.2, 0.0)
    assert dropped_share(zeros_only, x) is None
    assert dropped_share(x / 0.8, x) is None


def test_scaled_like_another_dropout_than_its_zeros_say_is_none(x):
    torch.manual_seed(0)
    assert dropped_share(x.masked_fill(torch.rand(x.shape) < 0.5, 0.0) / 0.9, x) is None


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_numbers_of_half_precision_are_known(half, x):
    assert is_rounded(x.to(half).float(), half)
    assert not is_rounded(x, half)


@pytest.mark.parametrize("shift", [1, 2, -1, -2])
def test_a_shift_has_its_direction(shift, x):
    shifted = Tensors(x.roll(shift, 1), x, 1, torch.tensor([40, 30]), "x")
    assert is_shifted(shifted, 1, shift)
    assert not is_shifted(shifted, 1, -shift)


def test_what_does_not_change_in_time_is_not_shifted():
    steady = torch.ones(1, 40, 6)
    assert not is_shifted(Tensors(steady, steady, 1, None, "x"), 1, 1)


def test_only_entries_of_padding_make_a_missing_padding_mask():
    lengths = torch.tensor([5, 3])
    lacking = torch.zeros(2, 5, 5, dtype=torch.bool)
    lacking[1, :, 3:] = True
    assert is_padding_only(lacking, lengths)
    lacking[0, 0, 1] = True
    assert not is_padding_only(lacking, lengths)


def test_close_is_relative_and_wants_one_shape(x):
    assert close(x * (1 + 1e-6), x)
    assert not close(x * (1 + 1e-3), x)
    assert not close(x[:1], x)


def test_losses_of_steps_are_those_of_their_targets():
    log_probs = torch.full((1, 3, 4, 1), math.log(0.25))
    assert close(step_losses(log_probs, torch.zeros(1, 3, 1, dtype=torch.int64)), torch.full((1, 3, 1), math.log(4)))


@pytest.mark.parametrize(("ratio", "told"), [(0.5, "0.5"), (1 + 5e-9, "1 + 5e-09"), (1 - 5e-9, "1 - 5e-09")])
def test_a_ratio_is_told_with_what_tells_it_from_1(ratio, told):
    assert in_digits(ratio) == told
