import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from tools.parity.data.distributions import RARE_IN_A_ROW, same_distribution, same_share
from tools.parity.rows import FAILED, PASSED


def draws(seed: int, shift: float = 0.0, count: int = 500) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(count) + shift)


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.3, 0.4, 1.0])
def test_the_verdict_is_that_of_scipys_test(shift):
    ours, nemo = draws(1, shift, 400), draws(2, count=700)
    row, expected = same_distribution("data", "x", ours, nemo, "m"), ks_2samp(ours, nemo, method="asymp")
    assert row.error == pytest.approx(expected.statistic)
    assert (row.status == FAILED) == (expected.pvalue < RARE_IN_A_ROW) == (shift >= 0.4)


def test_values_that_many_draws_share_are_counted_once_each():
    ours, nemo = torch.tensor([1.0, 1, 2, 2] * 200), torch.tensor([2.0, 1, 2, 1] * 200)
    assert same_distribution("data", "x", ours, nemo, "m").error == 0.0


def test_what_is_never_drawn_on_one_side_fails():
    none = torch.zeros(0)
    assert same_distribution("data", "x", none, draws(1), "m").status == FAILED
    assert same_distribution("data", "x", none, none, "m").status == PASSED


def test_what_is_not_finite_fails():
    broken = draws(1)
    broken[0] = torch.nan
    assert same_distribution("data", "x", broken, draws(2), "m").status == FAILED


@pytest.mark.parametrize(("share", "status"), [(0.5, PASSED), (0.55, PASSED), (0.65, FAILED), (1.0, FAILED)])
def test_shares_may_differ_as_draws_do(share, status):
    ours, nemo = (torch.arange(1000) < 1000 * x for x in (share, 0.5))
    assert same_share("data", "x", ours, nemo, "m").status == status


def test_a_share_that_chance_has_no_part_in_is_equal_or_fails():
    never, once = torch.zeros(100), torch.zeros(100)
    assert same_share("data", "x", never, never, "m").status == PASSED
    once[:30] = 1
    row = same_share("data", "x", once, never, "m")
    assert row.status == FAILED and row.detail == "0.300 instead of 0.000"
