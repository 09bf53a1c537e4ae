"""`typecheck`: check a call against the neural types a module declares."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from core.neural_types import NeuralType, mismatch


class Typing:
    """Declares what a module takes and gives. None: anything, unchecked."""

    @property
    def input_types(self) -> dict[str, NeuralType] | None:
        """Argument name -> type."""
        return None

    @property
    def output_types(self) -> dict[str, NeuralType] | None:
        """Output name -> type, in the order of the returned tuple. Optional ones may be missing at its end."""
        return None


class typecheck:
    """Decorator of methods of `Typing` classes: keywords only, names, rank and kind checked, outputs tagged.

    A wrong call raises TypeError in one line: which input of which class, what it got, what was expected.
    Under torch.compile the checks are left out: only eager calls are checked.
    """

    enabled = True

    def __call__(self, method: Callable) -> Callable:
        @functools.wraps(method)
        def checked(module: Typing, *args, **kwargs):
            if not typecheck.enabled or torch.compiler.is_compiling():
                return method(module, *args, **kwargs)
            input_types = module.input_types
            if input_types is not None:
                check_inputs(module, args, kwargs, input_types)
                output = method(module, **kwargs)
            else:
                output = method(module, *args, **kwargs)
            output_types = module.output_types
            if output_types is not None:
                tag_outputs(module, output, output_types)
            return output

        return checked

    @staticmethod
    def set_typecheck_enabled(enabled: bool = True) -> None:
        """Switch all checks on or off, in this process."""
        typecheck.enabled = enabled

    @staticmethod
    @contextmanager
    def disable_checks() -> Iterator[None]:
        """No checks inside the `with` block."""
        before = typecheck.enabled
        typecheck.enabled = False
        try:
            yield
        finally:
            typecheck.enabled = before


def check_inputs(module: Typing, args: tuple, kwargs: dict, input_types: dict[str, NeuralType]) -> None:
    """Raise TypeError unless `kwargs` are what `input_types` declare."""
    name = type(module).__name__
    if args:
        raise TypeError(f"{name} takes its inputs by keyword only: {', '.join(input_types)}")
    for key, value in kwargs.items():
        expected = input_types.get(key)
        if expected is None:
            raise TypeError(f"{name} has no input {key!r}; its inputs are {', '.join(input_types)}")
        if value is None:
            if not expected.optional:
                raise TypeError(f"input {key!r} of {name} is None, expected {expected}")
            continue
        problem = mismatch(value, expected)
        if problem:
            raise TypeError(f"input {key!r} of {name} {problem}; expected {expected}")
    for key, expected in input_types.items():
        if key not in kwargs and not expected.optional:
            raise TypeError(f"{name} needs its input {key!r}: {expected}")


def tag_outputs(module: Typing, output: object, output_types: dict[str, NeuralType]) -> None:
    """Check the ranks of what a module returned and write its type on each tensor, for the next module to check."""
    name = type(module).__name__
    values = output if isinstance(output, (tuple, list)) else (output,)
    required = sum(not expected.optional for expected in output_types.values())
    if not required <= len(values) <= len(output_types):
        raise TypeError(f"{name} gave {len(values)} outputs, declared are {', '.join(output_types)}")
    for value, (key, expected) in zip(values, output_types.items(), strict=False):
        if isinstance(value, torch.Tensor):
            if expected.axes is not None and value.dim() != len(expected.axes):
                raise TypeError(f"output {key!r} of {name} has shape {tuple(value.shape)}; declared is {expected}")
            value.neural_type = expected
