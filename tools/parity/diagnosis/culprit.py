"""Which module diverges first: one that gets what NeMo's gets, and gives something else.

A module whose inputs differ already is not to blame. Where a module and its parent both get the same and give
something else, the inner one finishes first and is named; where the inner ones only get something else, the module
that hands it to them is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tools.parity.comparison import largest_difference
from tools.parity.trace import EVALUATION, TRAINING, Call, Trace

LIMITS = {"preprocessor": 1e-3}  # as the level `feature`; of all other modules:
LIMIT = 1e-4
TIME_LAST = ("preprocessor", "mask_processor", "quantizer", "decoder", "pointwise", "depthwise", "batch_norm")


@dataclass(frozen=True)
class Culprit:
    """call, ours: the module's call on NeMo's side and on ours.  port: which of its outputs, from 0.

    class_name: our class.  error: in units of NeMo's largest entry.  detail: where, and both values.
    """

    module: str
    class_name: str
    phase: str
    error: float
    detail: str
    nemo: Call | None = None
    ours: Call | None = None
    port: int = 0


class Pair:
    """Two traces of one job, and which entries of their tensors are real."""

    def __init__(self, ours: Trace, nemo: Trace, classes: dict[str, str]):
        self.ours, self.nemo, self.classes = ours, nemo, classes

    def culprit(self) -> Culprit | None:
        """The first module to blame; None where each gives what NeMo's does."""
        for phase in (EVALUATION, TRAINING):
            for call in (call for call in self.nemo.calls if call.phase == phase):
                ours = self.ours.find(phase, call.module, call.count)
                if ours is not None and self.same_inputs(ours, call):
                    found = self.divergence(ours, call)
                    if found is not None:
                        return found
        return None

    def same_inputs(self, ours: Call, nemo: Call) -> bool:
        """All inputs that both sides have agree; those of one side alone (masks of another form) can't be compared."""
        shared = [port for port in nemo.inputs if port in ours.inputs]
        return all(
            self.error(nemo, self.ours.input(ours, port), self.nemo.input(nemo, port)) <= limit_of(nemo.module)
            for port in shared
        )

    def divergence(self, ours: Call, nemo: Call) -> Culprit | None:
        for port, (mine, theirs) in enumerate(zip(ours.outputs, nemo.outputs)):
            got, expected = self.ours.blobs[mine], self.nemo.blobs[theirs]
            error = self.error(nemo, got, expected)
            if not error <= limit_of(nemo.module):
                detail = self.where(nemo, got, expected)
                return Culprit(nemo.module, self.class_of(nemo.module), nemo.phase, error, detail, nemo, ours, port)
        return None

    def class_of(self, module: str) -> str:
        return self.classes.get("" if module.startswith("(") else module, "")

    def error(self, call: Call, got: Tensor, expected: Tensor) -> float:
        """Largest difference of real entries, in units of NeMo's largest; infinite for another shape or kind."""
        if got.shape != expected.shape or got.is_floating_point() != expected.is_floating_point():
            return float("inf")
        if not expected.numel():
            return 0.0
        got, expected = (self.real(call, x).double() for x in (got, expected))
        difference, largest = (got - expected).abs().max().item(), expected.abs().max().item()
        return difference / largest if largest > 0 else difference

    def where(self, call: Call, got: Tensor, expected: Tensor) -> str:
        if got.shape != expected.shape:
            return f"shape {tuple(got.shape)} instead of {tuple(expected.shape)}"
        return largest_difference(self.real(call, got), self.real(call, expected))

    def real(self, call: Call, x: Tensor) -> Tensor:
        """Zeros where `x` only stands for padding."""
        axis = time_axis(call.module, x)
        lengths = None if axis is None else self.lengths_at(call.phase, x.shape[axis])
        if lengths is None or len(lengths) != len(x):
            return x
        shape = [len(x), *(x.shape[axis] if i == axis else 1 for i in range(1, x.dim()))]
        return x.masked_fill((torch.arange(x.shape[axis]) >= lengths[:, None]).view(shape), 0)

    def lengths_at(self, phase: str, size: int) -> Tensor | None:
        """(B,): how much of an axis of this size is real, in front of, within or behind the subsampling."""
        name = next((c.module for c in self.nemo.calls if c.module.endswith("pre_encode")), None)
        call = None if name is None else self.nemo.find(phase, name)
        if call is None:
            return None
        frames, steps = self.nemo.input(call, "lengths"), self.nemo.output(call, 1)
        widest_frames, widest_steps = self.nemo.input(call, "x").shape[1], self.nemo.output(call, 0).shape[1]
        if size == widest_steps:
            return steps
        if size == widest_frames:
            return frames
        return None if size > widest_frames else (frames * size // widest_frames - 1).clamp(min=0)


def time_axis(module: str, x: Tensor) -> int | None:
    """The axis of steps or frames of a tensor of this module; None where it has none that can be told."""
    if x.dim() == 4 and ".conv" in f".{module}":
        return 2  # (B, C, T, F) in the subsampling
    if x.dim() != 3:
        return None
    return 2 if any(name in module for name in TIME_LAST) else 1


def limit_of(module: str) -> float:
    return next((limit for name, limit in LIMITS.items() if module.startswith(name)), LIMIT)
