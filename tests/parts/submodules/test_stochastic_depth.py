import pytest
import torch

from parts.submodules.stochastic_depth import drop_probabilities, skip_at_random


def test_probabilities_grow_to_the_last_block_or_are_equal():
    assert drop_probabilities(5, 0.4, "linear", 1) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert drop_probabilities(5, 0.4, "linear", 3) == pytest.approx([0.0, 0.0, 0.0, 0.2, 0.4])
    assert drop_probabilities(4, 0.4, "uniform", 2) == pytest.approx([0.0, 0.0, 0.4, 0.4])
    assert drop_probabilities(2, 0.4, "linear", 2) == [0.0, 0.0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((4, 1.0, "linear", 1), "encoder.stochastic_depth_drop_prob=1.0"),
        ((4, -0.1, "linear", 1), "encoder.stochastic_depth_drop_prob=-0.1"),
        ((4, 0.1, "cubic", 1), "encoder.stochastic_depth_mode='cubic'"),
        ((4, 0.1, "linear", 0), "encoder.stochastic_depth_start_layer=0"),
        ((4, 0.1, "linear", 5), "encoder.stochastic_depth_start_layer=5"),
    ],
)
def test_impossible_options_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError) as error:
        drop_probabilities(*arguments)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_block_is_skipped_as_often_as_asked_and_its_mean_stays():
    torch.manual_seed(0)
    before, after = torch.tensor(1.0), torch.tensor(3.0)
    drawn = torch.stack([skip_at_random(before, after, 0.25) for _ in range(4000)])
    assert (drawn == before).float().mean() == pytest.approx(0.25, abs=0.03)
    assert drawn.mean() == pytest.approx(3.0, abs=0.06)


def test_without_dropping_nothing_is_drawn():
    state, after = torch.get_rng_state(), torch.ones(2)
    assert skip_at_random(torch.zeros(2), after, 0.0) is after
    assert torch.equal(state, torch.get_rng_state())


def test_a_skipped_block_has_a_gradient_of_zero():
    after = torch.ones(2, requires_grad=True)
    skip_at_random(torch.zeros(2), after, 1.0).sum().backward()
    assert after.grad.tolist() == [0.0, 0.0]
