"""Which module diverges first: one that gets what NeMo's gets, and gives something else.

A module whose inputs differ already is not to blame, unless its outputs do many times as much. Where a module and its
parent both get the same and give something else, the inner one finishes first and is named; where the inner ones only
get something else, the module that hands it to them is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.parity.cases import Levels
from tools.parity.comparison import largest_difference
from tools.parity.diagnosis.axes import Axes, Port, aligned, kind_of
from tools.parity.diagnosis.batches import one_by_one
from tools.parity.trace import EVALUATION, ROOT, TRAINING, Call, Trace

# By kind of module, how far off an output may be that is right; tighter than those of the levels, since by then
# something is known to be wrong. The FFT's rounding comes to 4e-6 in nearly silent bands, a channel's small variance
# magnifies what a batch norm gets; elsewhere float32 rounds to some 1e-6 per layer on another CPU.
LIMITS = {"preprocessor": 1e-4, "featurizer": 1e-4, "batch_norm": 1e-4}
LIMIT = 1e-5  # of all others
GIVEN = 1e-4  # how far off the inputs of a module may be that is blamed,
GROWTH = 10.0  # and how many times as far off its outputs must be
HANDED = 1e-3  # how far off an input is that was not computed otherwise, but is another thing
ROUNDING = 1e-7  # what an input that is equal may still be off
OURS = ("core.", "data.", "losses.", "models.", "modules.", "parts.", "utils.")  # packages of this project

DIVERGES = "gets what NeMo's gets, and gives something else"
HANDS = "hands one of its parts something else"
RAISED = "raised"
AMPLIFIES = "no module gives something else for the same; here the error grows most"
ROW = "no call of a module shows it; it follows from what differs first"


@dataclass(frozen=True)
class Culprit:
    """call, ours: the module's call on NeMo's side and on ours.  port: which of its outputs, from 0.

    class_name: the module's class.  owner: the class of this project that the module is one of or stands in.
    error: in `unit`, or in that of the row it was found by.  detail: where, and both values.  reason: how it was found.
    """

    module: str
    class_name: str
    phase: str
    error: float
    detail: str
    nemo: Call | None = None
    ours: Call | None = None
    port: int = 0
    owner: str = ""
    reason: str = DIVERGES
    unit: str = "of NeMo's largest entry"


class Pair:
    """Two traces of one job.

    classes: dotted module name -> class, of our side.  weights: the weights that both sides started from, whose
    shapes tell convolutions over time from those of single steps.
    """

    def __init__(self, ours: Trace, nemo: Trace, classes: dict[str, str], weights: Levels | None = None):
        self.ours, self.nemo, self.classes = one_by_one(ours, nemo), nemo, classes
        self.axes = Axes(nemo, over_time(weights or {}))

    def culprit(self) -> Culprit | None:
        """The first module to blame; None where each gives what NeMo's does."""
        for ours, nemo in self.calls():
            if found := self.wrongly_handed(nemo) or self.divergence(ours, nemo):
                return found
        return None

    def calls(self) -> Iterator[tuple[Call, Call]]:
        """Ours and NeMo's, as far as both made them, in the order of NeMo's; evaluation first."""
        for phase in (EVALUATION, TRAINING):
            for nemo in (call for call in self.nemo.calls if call.phase == phase):
                ours = self.matching(nemo)
                if ours is not None:
                    yield ours, nemo

    def matching(self, nemo: Call) -> Call | None:
        """Ours of the same count; of a module that both call several times, in another order, the one that is given
        the same."""
        same_count = self.ours.find(nemo.phase, nemo.module, nemo.count)
        if same_count is None or self.inputs_agree(same_count, nemo):
            return same_count
        others = [c for c in self.ours.calls if (c.phase, c.module) == (nemo.phase, nemo.module)]
        return next((call for call in others if self.inputs_agree(call, nemo)), same_count)

    # the rule

    def inputs_agree(self, ours: Call, nemo: Call) -> bool:
        return self.input_error(ours, nemo) <= GIVEN

    def input_error(self, ours: Call, nemo: Call) -> float:
        """The largest of all inputs that both have; those of one side alone (masks of another form) can't be told."""
        return max((self.port_error(ours, nemo, *ports) for ports in shared_ports(ours, nemo)), default=0.0)

    def port_error(self, ours: Call, nemo: Call, our_port: str, nemo_port: str) -> float:
        got, expected = self.ours.input(ours, our_port), self.nemo.input(nemo, nemo_port)
        return self.error(nemo, nemo_port, aligned(got, expected), expected)

    def divergence(self, ours: Call, nemo: Call) -> Culprit | None:
        """What the module gives that NeMo's doesn't, though it gets the same, or nearly: then far more is off."""
        given = self.input_error(ours, nemo)
        if not given <= GIVEN:
            return None
        for port in self.compared_outputs(nemo):
            if port >= len(ours.outputs):
                return self.blame(ours, nemo, port, float("inf"), f"output {port} is missing")
            got, expected = self.ours.output(ours, port), self.nemo.output(nemo, port)
            error = self.error(nemo, port, got, expected)
            if not error <= max(self.limit(nemo.module), GROWTH * given):
                return self.blame(ours, nemo, port, error, self.where(nemo, port, got, expected))
        return None

    def limit(self, module: str) -> float:
        """Of an output: roundings of many parts add up as a random walk, to what an input may be off."""
        prefix = "" if module == ROOT else f"{module}."
        parts = sum(name.startswith(prefix) for name in {call.module for call in self.nemo.calls} - {module})
        return min(limit_of(module) * max(parts, 1) ** 0.5, GIVEN)

    def wrongly_handed(self, nemo: Call) -> Culprit | None:
        """The model, if the part of it that the call stands in gets something else, and no call of ours shows that.

        Our step of training is no call of the model: it is told by what it hands to the parts, the first of which come
        before all that they pass it on to.
        """
        if nemo.module == ROOT or self.ours.find(nemo.phase, ROOT):
            return None
        part = self.nemo.find(nemo.phase, nemo.module.split(".")[0], nemo.count)
        ours = part and self.matching(part)
        for port in self.wrong_inputs(ours, part, HANDED) if ours else ():
            got, expected = (
                aligned(self.ours.input(ours, port), self.nemo.input(part, port)),
                self.nemo.input(part, port),
            )
            error, where = self.error(part, port, got, expected), self.where(part, port, got, expected)
            detail, owner = f"{part.module} gets another {port}: {where}", self.owner_of(ROOT)
            return Culprit(ROOT, self.class_of(ROOT), nemo.phase, error, detail, owner=owner, reason=HANDS)
        return None

    def compared_outputs(self, nemo: Call) -> list[int]:
        """All but the codes of several books, which NeMo 3.0.0 mixes."""
        mixed = kind_of(nemo.module) == "quantizer" and self.nemo.output(nemo, 1).dim() == 3
        mixed = mixed and self.nemo.output(nemo, 1).shape[2] > 1
        return [port for port in range(len(nemo.outputs)) if not (mixed and port == 0)]

    def blame(self, ours: Call, nemo: Call, port: int, error: float, detail: str, reason: str = DIVERGES) -> Culprit:
        module = nemo.module
        if found := self.first_wrong_input(nemo):
            detail = f"{detail}; its part {found[0].module} gets another {found[1]}"
        cls, owner = self.class_of(module), self.owner_of(module)
        return Culprit(module, cls, nemo.phase, error, detail, nemo, ours, port, owner, reason)

    def first_wrong_input(self, parent: Call) -> tuple[Call, str] | None:
        """The first part of a module that gets another input than NeMo's: NeMo's call, and the port.

        Calls are in the order in which they finish: parts around that part come later, and were entered before.
        """
        prefix = "" if parent.module == ROOT else f"{parent.module}."
        first = None
        for ours, nemo in self.calls():
            inside = nemo.module.startswith(prefix) and nemo.module not in (ROOT, parent.module)
            around = first is None or first[0].module.startswith(f"{nemo.module}.")
            if nemo.phase == parent.phase and inside and around:
                first = next(((nemo, port) for port in self.wrong_inputs(ours, nemo)), first)
        return first

    def wrong_inputs(self, ours: Call, nemo: Call, limit: float = LIMIT) -> Iterator[str]:
        """Ports at which the inputs can be compared, and differ."""
        for our_port, port in shared_ports(ours, nemo):
            known = comparable(self.ours.input(ours, our_port), self.nemo.input(nemo, port))
            if known and not self.port_error(ours, nemo, our_port, port) <= limit:
                yield port

    # numbers

    def error(self, call: Call, port: Port, got: Tensor, expected: Tensor) -> float:
        """Largest difference of real entries, in units of NeMo's largest; infinite for another shape or kind."""
        if not comparable(got, expected):
            return float("inf")
        if not expected.numel():
            return 0.0
        got, expected = (self.axes.real(call, port, x).double() for x in (got, expected))
        if not torch.equal(got.isfinite(), expected.isfinite()):
            return float("inf")
        difference, largest = (got - expected).nan_to_num(0.0).abs().max().item(), expected.abs().max().item()
        return difference / largest if largest > 0 else difference

    def where(self, call: Call, port: Port, got: Tensor, expected: Tensor) -> str:
        if got.shape != expected.shape:
            return f"shape {tuple(got.shape)} instead of {tuple(expected.shape)}"
        if got.is_floating_point() != expected.is_floating_point():
            return f"{got.dtype} instead of {expected.dtype}"
        return largest_difference(self.axes.real(call, port, got), self.axes.real(call, port, expected))

    # names

    def class_of(self, module: str) -> str:
        return self.classes.get("" if module == ROOT else module, "")

    def owner_of(self, module: str) -> str:
        """The class of this project nearest to the module: its own, or that of what it stands in."""
        name = "" if module == ROOT else module
        while name and not self.classes.get(name, "").startswith(OURS):
            name = name.rpartition(".")[0]
        return self.classes.get(name, "")

    # where the rule names none

    def raised_in(self, message: str) -> Culprit | None:
        """The innermost module that our side entered and didn't leave, and that was given what NeMo's is given."""
        for call in reversed(self.ours.open):
            nemo = self.nemo.find(call.phase, call.module, call.count)
            if nemo is None or self.inputs_agree(call, nemo):
                cls, owner = self.class_of(call.module), self.owner_of(call.module)
                return Culprit(
                    call.module, cls, call.phase, float("inf"), message, nemo, call, owner=owner, reason=RAISED
                )
        return None

    def amplifier(self) -> Culprit | None:
        """The module with the largest error of an output for its error of the inputs; one that has parts, only where
        none of these explains half of it."""
        best, largest = None, 0.0
        for ours, nemo in self.calls():
            given = self.input_error(ours, nemo)
            for port in self.compared_outputs(nemo)[: len(ours.outputs)]:
                got, expected = self.ours.output(ours, port), self.nemo.output(nemo, port)
                error = self.error(nemo, port, got, expected)
                growth = error / max(given, ROUNDING)
                around = best is not None and (nemo.module == ROOT or best[1].module.startswith(f"{nemo.module}."))
                if growth > max(largest * (2 if around else 1), 1.0) and error < float("inf"):
                    largest, best = growth, (ours, nemo, port, error, self.where(nemo, port, got, expected))
        if best is None:
            return None
        *place, detail = best
        return self.blame(*place, f"{detail}; {largest:.0f} times the error of its inputs", AMPLIFIES)


def shared_ports(ours: Call, nemo: Call) -> list[tuple[str, str]]:
    """Ports of ours and NeMo's that take the same; a part of a mask of ours may be an argument of NeMo's."""
    pairs = [(port, port if port in nemo.inputs else port.rpartition(".")[2]) for port in ours.inputs]
    return [(our_port, nemo_port) for our_port, nemo_port in pairs if nemo_port in nemo.inputs]


def comparable(got: Tensor, expected: Tensor) -> bool:
    return aligned(got, expected).shape == expected.shape and got.is_floating_point() == expected.is_floating_point()


def over_time(weights: Levels) -> frozenset[str]:
    """The 2-D convolutions whose kernel spans several frames."""
    return frozenset(
        name.removesuffix(".weight")
        for name, weight in weights.items()
        if name.endswith(".weight") and weight.dim() == 4 and weight.shape[2] > 1
    )


def limit_of(module: str) -> float:
    return LIMITS.get(kind_of(module), LIMIT)
