"""What a cause is told by: both traces, the module to blame, and our modules to try things on."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from tools.parity.aspects.computation import levels_of
from tools.parity.cases import Levels, seed_everything
from tools.parity.diagnosis.axes import Port, aligned
from tools.parity.diagnosis.culprit import Culprit, Pair, limit_of
from tools.parity.records import Record
from tools.parity.rows import FAILED, Row
from tools.parity.side import Side
from tools.parity.trace import EVALUATION, PORTS, ROOT, TRAINING, Call, tensors_in

CLOSE = 2e-5  # of the largest entry: two float32 computations of the same


@dataclass(frozen=True)
class Tensors:
    """A tensor of ours and NeMo's in one place. axis: of time, or None. lengths: (B,), how much of that is real."""

    got: Tensor
    expected: Tensor
    axis: int | None
    lengths: Tensor | None
    place: str


@dataclass(frozen=True)
class Evidence:
    ours: Record
    nemo: Record
    pair: Pair
    culprit: Culprit | None
    rows: Sequence[Row]

    @property
    def config(self) -> dict:
        return self.ours.job.case.config

    @property
    def encoder_config(self) -> dict:
        return self.config["encoder"] if self.ours.job.case.is_model else self.config

    @property
    def is_call(self) -> bool:
        """The culprit was seen in a call that both sides finished."""
        return self.culprit is not None and bool(self.culprit.nemo and self.culprit.ours and self.culprit.ours.outputs)

    @cached_property
    def levels(self) -> tuple[Levels, Levels]:
        return levels_of(self.ours), levels_of(self.nemo)

    def failed(self, level: str) -> bool:
        return any(row.status == FAILED and row.level == level for row in self.rows)

    # tensors to look at

    def outputs(self) -> Iterator[Tensors]:
        """What the culprit gives otherwise than NeMo, as far as it has NeMo's shape."""
        if self.is_call:
            for port in self.pair.compared_outputs(self.culprit.nemo)[: len(self.culprit.ours.outputs)]:
                got = self.pair.ours.output(self.culprit.ours, port)
                expected = self.pair.nemo.output(self.culprit.nemo, port)
                error = self.pair.error(self.culprit.nemo, port, got, expected)
                if got.shape == expected.shape and not error <= limit_of(self.culprit.module):
                    yield self.tensors(self.culprit.nemo, port, got, expected, f"its output {port}")

    @cached_property
    def handed(self) -> Tensors | None:
        """What the culprit hands to the first of its parts that gets something else."""
        found = self.pair.first_wrong_input(self.culprit.nemo) if self.is_call else None
        if found is None:
            return None
        nemo, port = found
        ours = self.pair.ours.find(nemo.phase, nemo.module, nemo.count)
        our_port = next(p for p in ours.inputs if p == port or p.endswith(f".{port}"))
        got, expected = self.pair.ours.input(ours, our_port), self.pair.nemo.input(nemo, port)
        return self.tensors(nemo, port, aligned(got, expected), expected, f"`{port}` of {nemo.module}")

    def places(self) -> Iterator[Tensors]:
        """Where the sides differ: at the part that first gets something else, then at the outputs."""
        if self.handed is not None:
            yield self.handed
        yield from self.outputs()

    def tensors(self, call: Call, port: Port, got: Tensor, expected: Tensor, place: str) -> Tensors:
        axis = self.pair.axes.axis(call.module, port, expected)
        lengths = None if axis is None else self.pair.axes.lengths(call.phase, expected.shape[axis])
        return Tensors(got, expected, axis, lengths, place)

    def nemo_call(self, module: str, count: int = 1) -> Call | None:
        return self.pair.nemo.find(EVALUATION, module, count)

    # our modules, to try things on

    @cached_property
    def model(self) -> nn.Module:
        return Side("ours", self.ours.job, Path()).build()

    def replay(self, seed: int = 0, alone: int | None = None) -> list[Tensor] | None:
        """What our module gives for the inputs of its call; None where it can't be called from those alone.

        alone: only this utterance of the batch, without its padding.
        """
        if not self.is_call or (self.culprit.module == ROOT and self.ours.job.case.is_model):
            return None
        module = self.model if self.culprit.module == ROOT else self.model.get_submodule(self.culprit.module)
        arguments = self.arguments(module, alone)
        if arguments is None:
            return None
        self.model.train(self.culprit.phase == TRAINING)
        seed_everything(seed)
        try:
            with torch.no_grad():
                return list(tensors_in(module(**arguments)))
        except Exception:  # what is wrong with a module may show only here; then nothing is known
            return None

    def arguments(self, module: nn.Module, alone: int | None) -> dict[str, Tensor] | None:
        given = {}
        for name, parameter in inspect.signature(module.forward).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                return None
            port = PORTS.get(name, name)
            x = self.pair.ours.input(self.culprit.ours, port) if port else None
            if x is not None:
                given[name] = x.clone() if alone is None else self.cropped(port, x, alone)
            elif parameter.default is parameter.empty:
                return None
        return given

    def cropped(self, port: str, x: Tensor, row: int) -> Tensor:
        """An input of one utterance, without padding."""
        call = self.culprit.nemo
        if port == "positions":
            size = self.pair.nemo.input(call, "x").shape[1]
            lost = size - int(self.pair.axes.lengths(call.phase, size)[row])
            return x[:, lost : x.shape[1] - lost] if x.shape[1] == 2 * size - 1 else x
        x = x[row : row + 1]
        for axis in range(1, x.dim()) if x.dtype == torch.bool else [self.pair.axes.axis(call.module, port, x)]:
            lengths = None if axis is None else self.pair.axes.lengths(call.phase, x.shape[axis])
            x = x if lengths is None else x.narrow(axis, 0, int(lengths[row]))
        return x

    def right_without_padding(self) -> bool:
        """Each utterance alone and without padding gives NeMo's output, at real steps."""
        padded = [t.lengths is not None and bool((t.lengths < t.got.shape[t.axis]).any()) for t in self.outputs()]
        if not any(padded) or len(self.pair.ours.blobs[self.culprit.ours.outputs[0]]) < 2:
            return False
        expected = self.pair.nemo.output(self.culprit.nemo)
        axis = self.pair.axes.axis(self.culprit.module, 0, expected)
        lengths = self.pair.axes.lengths(self.culprit.phase, expected.shape[axis])
        for row, steps in enumerate(lengths.tolist()):
            alone = self.replay(alone=row)
            if alone is None or alone[0].dim() != expected.dim() or alone[0].shape[axis] < steps:
                return False
            if not close(alone[0].narrow(axis, 0, steps), expected[row : row + 1].narrow(axis, 0, steps), 1e-4):
                return False
        return True

    def differ(self, one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
        """Two replays on real entries."""
        call = self.culprit.nemo
        return any(
            a.is_floating_point() and self.pair.error(call, port, a, b) > limit_of(call.module)
            for port, (a, b) in enumerate(zip(one, other))
        )


def close(got: Tensor, expected: Tensor, within: float = CLOSE) -> bool:
    """The same numbers, up to rounding."""
    if got.shape != expected.shape or not got.numel():
        return False
    difference = (got.double() - expected.double()).abs().max()
    return bool(difference <= within * expected.double().abs().max())
