"""What goes in and out of modules is noted, each tensor once."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tools.parity.trace import EVALUATION, TRAINING, Trace


class Mask(NamedTuple):
    padding: Tensor
    hidden: Tensor


class Halved(nn.Module):
    """Without weights and parts."""

    def forward(self, x):
        return x / 2


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x, mask=None):
        return self.activation(self.linear(x))


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Part()
        self.preprocessor, self.decoder = Halved(), Halved()

    def forward(self, x):
        x = self.decoder(self.preprocessor(x))
        mask = Mask(torch.zeros(2, 4, dtype=torch.bool), torch.ones(2, 4, 4, dtype=torch.bool))
        return self.part(x, mask), x


def traced(phase: str = EVALUATION, **options) -> Trace:
    trace, whole = Trace(**options), Whole()
    with trace.watch(whole, phase):
        whole(torch.randn(2, 4, 3))
    return trace


def test_inner_calls_come_before_outer_ones_and_activations_are_left_out():
    assert [call.module for call in traced().calls][-3:] == ["part.linear", "part", "(model)"]


def test_modules_without_weights_are_noted():
    assert [call.module for call in traced().calls][:2] == ["preprocessor", "decoder"]


def test_parts_of_a_named_tuple_are_ports():
    assert list(traced().find(EVALUATION, "part").inputs) == ["x", "mask.padding", "mask.mask"]


def test_layers_that_work_in_place_do_not_change_what_was_kept():
    trace = traced()
    linear, part = trace.find(EVALUATION, "part.linear"), trace.find(EVALUATION, "part")
    assert trace.output(linear).min() < 0 <= trace.output(part).min()


def test_a_tensor_that_is_passed_on_is_kept_once():
    trace = traced()
    assert trace.find(EVALUATION, "part").inputs["x"] == trace.find(EVALUATION, "(model)").outputs[1]


def test_a_call_that_raises_stays_open_with_its_inputs():
    trace, whole = Trace(), Whole()
    with pytest.raises(RuntimeError), trace.watch(whole, EVALUATION):
        whole(torch.randn(2, 4, 5))
    assert [call.module for call in trace.open] == ["(model)", "part", "part.linear"]
    assert trace.input(trace.open[-1], "x").shape == (2, 4, 5)


def test_a_brief_trace_leaves_out_of_training_what_is_the_same_as_in_evaluation():
    training, evaluation = (
        [call.module for call in traced(phase, brief=True).calls] for phase in (TRAINING, EVALUATION)
    )
    assert training == ["preprocessor", "part", "(model)"]
    assert evaluation == ["preprocessor", "decoder", "part.linear", "part", "(model)"]


def test_a_trace_comes_back_from_json():
    trace = traced()
    again = Trace.from_json(trace.to_json(), trace.blobs)
    assert (again.calls, again.open) == (trace.calls, [])
