import pytest
import torch

from tools.parity.data.samples import compare_samples, is_usable
from tools.parity.rows import FAILED, PASSED


def row(got, expected, **options):
    return compare_samples("x", got, expected, module="m", **options)


def test_samples_may_differ_by_a_third_of_a_16_bit_step_and_loud_ones_by_as_much_of_their_peak():
    samples = torch.linspace(-0.5, 0.5, 100)
    assert row(samples + 0.9e-5, samples).status == PASSED
    assert row(samples + 1.2e-5, samples).status == FAILED
    assert row(4 * samples + 1.9e-5, 4 * samples).status == PASSED


def test_a_difference_says_where_it_is_and_both_values():
    got, expected = torch.zeros(2, 5), torch.zeros(2, 5)
    got[1, 3] = 0.25
    assert row(got, expected).detail == "[1, 3]: 0.25 instead of 0"
    assert row(got, expected, step=31).detail == "one sample in 31 is kept; of these [1, 3]: 0.25 instead of 0"


def test_lengths_are_equal_or_fail():
    assert row(torch.tensor(8001), torch.tensor(8000)).detail == "[0]: 8001 instead of 8000"
    assert row(torch.tensor(8000), torch.tensor(8000)).status == PASSED


@pytest.mark.parametrize("got", [None, torch.zeros(4), torch.zeros(1, 5), torch.zeros(5, dtype=torch.float64)])
def test_another_shape_or_type_fails(got):
    assert row(got, torch.zeros(5)).status == FAILED


def test_a_shape_that_differed_before_samples_were_left_out_fails():
    forms = ["float32", 10], ["float32", 11]
    assert (
        row(torch.zeros(1), torch.zeros(1), forms=forms, step=31).detail == "['float32', 10] instead of ['float32', 11]"
    )


def test_nan_fails():
    assert row(torch.full((3,), torch.nan), torch.zeros(3)).status == FAILED


@pytest.mark.parametrize(
    ("samples", "usable"),
    [([0.0, 0.1], True), ([], False), ([0.5, 0.5], False), ([0.0, float("nan")], False), ([0.0, 200.0], False)],
)
def test_audio_is_usable_that_is_finite_of_scale_and_not_constant(samples, usable):
    assert is_usable(torch.tensor(samples)) == usable
