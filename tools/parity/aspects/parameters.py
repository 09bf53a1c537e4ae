"""Parameters and buffers by name: shapes, types, what is trained and in which order, how many; and the preprocessor's
window and filters, which start weights leave out."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from torch import Tensor, nn

from tools.parity.comparison import in_range, largest_difference
from tools.parity.records import Measured, Record
from tools.parity.rows import FAILED, PASSED, Row
from tools.parity.side import Side

NAME = LEVEL = "parameters"
PREPROCESSOR = "preprocessor."
CONSTANTS_LIMIT = 1e-6
CONSTANTS = "largest difference over largest value: float32 rounds at 6e-8, cosines and mel frequencies add to it"
SAME = "NeMo's checkpoints are read and written by name, shape and type"
IN_ORDER = "the states of an optimizer in a checkpoint go by the order in which parameters were registered"


def measure(side: Side) -> Measured:
    """facts: `tensors` name -> {kind, shape, dtype, trained}; `unsaved` buffers; `order` of trained names; `counts`."""
    module = side.fresh()
    state = module.state_dict(keep_vars=True)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    tensors = {name: describe(value) for name, value in (state | parameters).items()}
    facts = {
        "tensors": tensors,
        "unsaved": sorted(name for name, _ in module.named_buffers() if name not in state),
        "order": [name for name, parameter in module.named_parameters() if parameter.requires_grad],
        "counts": counts(module),
    }
    constants = {name: value.detach().clone() for name, value in state.items() if name.startswith(PREPROCESSOR)}
    return Measured(constants, facts)


def describe(tensor: nn.Parameter) -> dict[str, Any]:
    return {
        "kind": "parameter" if isinstance(tensor, nn.Parameter) else "buffer",
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "trained": tensor.requires_grad,
    }


def counts(module: nn.Module) -> dict[str, dict[str, int]]:
    """Numbers of each part of the model and of the encoder that has any, and of all: those that are trained, frozen."""
    parts = dict(module.named_children()) | {"all": module}
    parts |= {f"encoder.{name}": part for name, part in getattr(module, "encoder", nn.Module()).named_children()}
    numbers = {name: count(part) for name, part in parts.items()}
    return {name: number for name, number in numbers.items() if any(number.values())}


def count(module: nn.Module) -> dict[str, int]:
    numbers = Counter(trained=0, frozen=0)
    for parameter in module.parameters():
        numbers["trained" if parameter.requires_grad else "frozen"] += parameter.numel()
    return dict(numbers)


def compare(ours: Record, nemo: Record) -> Iterator[Row]:
    """A row for each tensor, one for the order, one for each module's counts, one for each of the constants' values."""
    got, expected = ours.measured[NAME], nemo.measured[NAME]
    for name in dict.fromkeys([*expected.facts["tensors"], *got.facts["tensors"]]):
        yield compare_tensor(name, got.facts, expected.facts)
    yield compare_order(got.facts["order"], expected.facts["order"])
    for part in dict.fromkeys([*expected.facts["counts"], *got.facts["counts"]]):
        here, there = (told(facts["counts"].get(part)) for facts in (got.facts, expected.facts))
        yield row(f"count of {part}", here, there, "the sum over its parameters", "" if part == "all" else part)
    for name in sorted(expected.tensors.keys() & got.tensors.keys()):
        yield compare_constant(name, got.tensors[name], expected.tensors[name])


def compare_tensor(name: str, ours: dict[str, Any], nemo: dict[str, Any]) -> Row:
    here, there = (facts["tensors"].get(name) for facts in (ours, nemo))
    unsaved = {"here": name in ours["unsaved"], "in NeMo": name in nemo["unsaved"]}
    where = [f"{side} a buffer that isn't saved" for side, is_unsaved in unsaved.items() if is_unsaved]
    return row(name, told(here, where), told(there, where), SAME, name.rpartition(".")[0])


def told(entry: dict[str, Any] | None, where: Sequence[str] = ()) -> str:
    if entry is None:
        return ", ".join(["nothing", *where])
    return ", ".join(f"{key} {value}" for key, value in entry.items())


def row(what: str, ours: str, nemo: str, reason: str, module: str = "") -> Row:
    if ours == nemo:
        return Row(LEVEL, what, PASSED, reason=reason, detail=ours, module=module)
    return Row(LEVEL, what, FAILED, reason=reason, detail=f"{ours} instead of {nemo}", module=module)


def compare_order(ours: list[str], nemo: list[str]) -> Row:
    what = "order of the trained parameters"
    for index, (here, there) in enumerate(zip_longest(ours, nemo, fillvalue="nothing")):
        if here != there:
            return Row(LEVEL, what, FAILED, reason=IN_ORDER, detail=f"[{index}]: {here} instead of {there}")
    return Row(LEVEL, what, PASSED, reason=IN_ORDER, detail=f"{len(ours)} of them")


def compare_constant(name: str, ours: Tensor, nemo: Tensor) -> Row:
    what, module = f"values of {name}", name.rpartition(".")[0]
    if ours.shape != nemo.shape:
        shapes = f"shape {list(ours.shape)} instead of {list(nemo.shape)}"
        return Row(LEVEL, what, FAILED, float("inf"), CONSTANTS_LIMIT, CONSTANTS, shapes, module)
    error = in_range(ours.double(), nemo.double(), 0.0)
    if error <= CONSTANTS_LIMIT:  # never for NaN
        return Row(LEVEL, what, PASSED, error, CONSTANTS_LIMIT, CONSTANTS, module=module)
    return Row(LEVEL, what, FAILED, error, CONSTANTS_LIMIT, CONSTANTS, largest_difference(ours, nemo), module)
