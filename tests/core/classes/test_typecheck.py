"""Calls of typed modules."""

import sys

import pytest
import torch
from torch import Tensor, nn

from core.classes import NeuralModule, typecheck
from core.neural_types import EncodedRepresentation, LengthsType, NeuralType, SpectrogramType


class Encoder(NeuralModule):
    def __init__(self, extra_output: bool = False, flat: bool = False):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.extra_output = extra_output
        self.flat = flat

    @property
    def input_types(self):
        return {
            "x": NeuralType(("B", "D"), SpectrogramType()),
            "lengths": NeuralType(("B",), LengthsType(), optional=True),
        }

    @property
    def output_types(self):
        return {
            "encoded": NeuralType(("B", "D"), EncodedRepresentation()),
            "lengths": NeuralType(("B",), LengthsType(), optional=True),
        }

    @typecheck()
    def forward(self, x: Tensor, lengths: Tensor | None = None):
        y = self.layer(x)
        y = y.flatten() if self.flat else y
        if self.extra_output:
            return y, lengths, lengths
        return y if lengths is None else (y, lengths)


X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(X), r"Encoder takes its inputs by keyword only: x, lengths"),
        (lambda m: m(y=X), r"Encoder has no input 'y'; its inputs are x, lengths"),
        (lambda m: m(lengths=X[:, 0]), r"Encoder needs its input 'x': SpectrogramType \(B, D\)"),
        (lambda m: m(x=None), r"input 'x' of Encoder is None, expected SpectrogramType \(B, D\)"),
        (lambda m: m(x=X[0]), r"input 'x' of Encoder has shape \(3,\), 1 axes; expected SpectrogramType \(B, D\)"),
        (lambda m: m(x=m(x=X)), r"input 'x' of Encoder is EncodedRepresentation \(B, D\); expected SpectrogramType"),
    ],
)
def test_a_wrong_call_says_which_input_what_it_got_and_what_was_expected(call, message):
    with pytest.raises(TypeError, match=f"^{message}") as caught:
        call(Encoder())
    assert "\n" not in str(caught.value)


def test_outputs_carry_the_kind_that_the_next_module_checks():
    encoded, lengths = Encoder()(x=X, lengths=torch.tensor([3, 2]))
    assert isinstance(encoded.neural_type.kind, EncodedRepresentation)
    assert isinstance(lengths.neural_type.kind, LengthsType)


def test_a_module_that_breaks_its_own_declaration_is_told():
    with pytest.raises(TypeError, match="Encoder gave 3 outputs, declared are encoded, lengths"):
        Encoder(extra_output=True)(x=X)
    with pytest.raises(TypeError, match=r"output 'encoded' of Encoder has shape \(6,\); declared is Encoded"):
        Encoder(flat=True)(x=X)


def test_an_undeclared_module_is_called_as_it_likes():
    class Free(NeuralModule):
        @typecheck()
        def forward(self, x):
            return x

    assert Free()(X) is X


def test_checks_can_be_switched_off_and_come_back():
    module = Encoder()
    with typecheck.disable_checks():
        assert module(X).shape == (2, 3)
    with pytest.raises(TypeError):
        module(X)
    typecheck.set_typecheck_enabled(False)
    try:
        assert module(X).shape == (2, 3)
    finally:
        typecheck.set_typecheck_enabled(True)
    with pytest.raises(TypeError):
        module(X)


def test_a_compiled_module_gives_the_same_numbers():
    module = Encoder()
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x=X), module(x=X))


def test_a_check_costs_a_few_dozen_calls_of_functions():
    class Nothing(Encoder):
        @typecheck()
        def forward(self, x, lengths=None):
            return x

    def calls() -> int:
        module, x, counted = Nothing(), torch.ones(2, 3), []
        x.neural_type = NeuralType(None, SpectrogramType())
        sys.setprofile(lambda frame, event, argument: counted.append(event) if event.endswith("call") else None)
        try:
            module(x=x)
        finally:
            sys.setprofile(None)
        return len(counted)

    with typecheck.disable_checks():
        unchecked = calls()
    assert 0 < calls() - unchecked < 60
