"""Who is to blame: whoever gets the same as NeMo's and gives something else."""

from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

from tools.parity.diagnosis.axes import aligned
from tools.parity.diagnosis.culprit import AMPLIFIES, HANDS, LIMIT, RAISED, Pair
from tools.parity.trace import EVALUATION, TRAINING, Trace


class Chain(nn.Module):
    """first -> second -> third, with what goes wrong in each."""

    def __init__(self, wrong: dict | None = None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))
        for name, change in (wrong or {}).items():
            part = getattr(self, name)
            part.forward = lambda x, forward=part.forward, change=change: change(forward(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x)))


def traced(model: nn.Module) -> Trace:
    trace = Trace()
    with suppress(ValueError), trace.watch(model, EVALUATION), torch.no_grad():
        model(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)))
    return trace


def pair(wrong: dict | None = None) -> Pair:
    classes = {"": "models.x.Chain", "first": "torch.nn.Linear", "second": "torch.nn.Linear", "third": "parts.y.Third"}
    return Pair(traced(Chain(wrong)), traced(Chain()), classes)


def test_equal_models_have_no_culprit():
    assert pair().culprit() is None


def test_the_first_that_gives_something_else_is_blamed_and_not_who_gets_it():
    found = pair({"second": lambda y: 2 * y}).culprit()
    assert (found.module, found.owner) == ("second", "models.x.Chain")
    assert "instead of" in found.detail


def test_a_number_that_is_not_finite_differs():
    assert pair({"third": lambda y: y * torch.nan}).culprit().module == "third"


def test_of_two_the_first_is_blamed():
    assert pair({"first": lambda y: y + 1, "third": lambda y: y + 1}).culprit().module == "first"


def test_who_gets_what_is_slightly_wrong_and_does_the_same_with_it_is_not_blamed():
    found = pair({"first": lambda y: y * (1 + 9e-5), "second": lambda y: y * (1 + 1e-4)}).culprit()
    assert found.module == "first"
    assert pair({"first": lambda y: y * (1 + 3e-6), "second": lambda y: y * (1 + 3e-6)}).culprit() is None


def test_a_module_of_many_parts_may_be_off_by_more_than_each_of_them():
    assert pair().limit("second") == LIMIT < pair().limit("(model)") == pytest.approx(LIMIT * 3**0.5)


def test_who_makes_a_small_error_many_times_as_large_is_blamed():
    assert pair({"first": lambda y: y * (1 + 9e-6), "second": lambda y: y * 1.01}).culprit().module == "second"


def test_who_hands_something_else_to_its_parts_is_blamed():
    class Swapped(Chain):
        def forward(self, x):
            return self.third(self.first(self.second(x)))

    found = Pair(traced(Swapped()), traced(Chain()), {"": "models.x.Swapped"}).culprit()
    assert (found.module, found.class_name) == ("(model)", "models.x.Swapped")
    assert "its part" in found.detail


def test_who_raises_is_blamed_if_it_was_given_the_same():
    def refuse(y):
        raise ValueError("no")

    found = pair({"second": refuse}).raised_in("ValueError: no")
    assert (found.module, found.reason, found.detail) == ("second", RAISED, "ValueError: no")


def test_errors_within_the_limits_are_traced_to_where_they_grow_most():
    wrong = {"first": lambda y: y * (1 + 1e-7), "second": lambda y: y * (1 + 9e-6)}
    assert pair(wrong).culprit() is None
    assert (pair(wrong).amplifier().module, pair(wrong).amplifier().reason) == ("second", AMPLIFIES)


def test_axes_of_size_1_do_not_matter_to_inputs():
    x = torch.randn(2, 3, 4)
    assert aligned(x[:, None], x).shape == (2, 3, 4)
    assert aligned(x.transpose(1, 2), x).shape == (2, 4, 3)


class Step(nn.Module):
    """A model with a part for the features, and a step of training that isn't its `forward`."""

    def __init__(self):
        super().__init__()
        self.preprocessor, self.encoder = nn.Flatten(start_dim=2), nn.LSTM(4, 4, batch_first=True)

    def forward(self, clean: Tensor, noisy: Tensor) -> Tensor:
        self.preprocessor(clean)
        return self.encoder(self.preprocessor(noisy))[0]

    def step(self, clean: Tensor, noisy: Tensor, chosen: int = 1) -> Tensor:
        return self.encoder(self.preprocessor(torch.cat([clean, noisy])).chunk(2)[chosen])[0]


def trained(chosen: int = 1) -> Pair:
    """Our `step` beside a `forward`."""
    torch.manual_seed(0)
    model, clean, noisy, traces = Step(), torch.randn(2, 3, 4), torch.randn(2, 3, 4), (Trace(), Trace())
    with traces[0].watch(model, TRAINING):
        model.step(clean, noisy, chosen)
    with traces[1].watch(model, TRAINING):
        model(clean, noisy)
    return Pair(*traces, {"": "models.x.Step", "preprocessor": "torch.nn.Flatten", "encoder": "torch.nn.LSTM"})


def test_a_call_with_two_batches_is_held_against_two_calls():
    assert [call.module for call, _ in trained().calls()] == ["preprocessor", "preprocessor", "encoder"]
    assert trained().culprit() is None


def test_a_step_that_hands_a_part_something_else_is_blamed_by_the_name_of_the_model():
    found = trained(chosen=0).culprit()
    assert (found.module, found.owner, found.reason) == ("(model)", "models.x.Step", HANDS)
    assert found.detail.startswith("encoder gets another x: [")
