"""What a mistake looks like, where it looks like a known one.

A cause is only told when its numbers hold to rounding: what our side computed is what that mistake would make of
NeMo's numbers. A wrong cause is worse than none.
"""

import math
import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tools.parity.diagnosis.evidence import CLOSE, Evidence, Tensors, close
from tools.parity.diagnosis.feature_causes import FEATURE_CAUSES
from tools.parity.diagnosis.training_causes import TRAINING_CAUSES
from tools.parity.trace import EVALUATION, TRAINING, tensors_in
from utils.config_check import is_number

ENOUGH = 8  # numbers that agree by chance no more
HALF_TYPES = (torch.bfloat16, torch.float16)
Cause = Callable[[Evidence], str | None]


def dtype(evidence: Evidence) -> str | None:
    for x in evidence.outputs():
        if x.got.dtype != x.expected.dtype and x.got.is_floating_point():
            return f"dtype: {x.place} is {x.got.dtype} instead of {x.expected.dtype}"
    for x in evidence.places():
        for half in HALF_TYPES:
            if is_rounded(x.got, half) and not is_rounded(x.expected, half) and close(x.got, x.expected, 2 * eps(half)):
                return f"dtype: the numbers of {x.place} are rounded to {half}"
    return None


def eps(half: torch.dtype) -> float:
    return torch.finfo(half).eps


def is_rounded(x: Tensor, half: torch.dtype) -> bool:
    """All of its numbers, enough of them, are ones that `half` has."""
    return x.is_floating_point() and x.numel() >= ENOUGH and torch.equal(x.to(half).to(x.dtype), x)


def dropout(evidence: Evidence) -> str | None:
    """In evaluation nothing is drawn; in training with zeros, and the rest scaled up."""
    if not evidence.is_call:
        return None
    where = "evaluation" if evidence.culprit.phase == EVALUATION else "training"
    for x in evidence.outputs():
        if (share := dropped_share(x.got, x.expected)) is not None:
            return (
                f"dropout active in {where}: {share:.1%} of {x.place} are zero, the rest is divided by {1 - share:.3g}"
            )
    if where == "training" and any(v for k, v in evidence.encoder_config.items() if "drop" in k and is_number(v)):
        return None
    one, other = evidence.replay(seed=0), evidence.replay(seed=1)
    if one is None or not evidence.differ(one, other):
        return None
    why = "though nothing is dropped in evaluation" if where == "evaluation" else "though every dropout is 0"
    return f"dropout active in {where}: the same input gives something else with another seed, {why}"


def dropped_share(got: Tensor, expected: Tensor) -> float | None:
    """The share p when `got` is `expected` / (1 - p), but for zeros."""
    if not got.is_floating_point() or got.numel() < ENOUGH:
        return None
    alive = (expected != 0) & expected.isfinite()
    kept = alive & (got != 0)
    if kept.sum() < ENOUGH or kept.sum() == alive.sum():
        return None
    ratio = constant_ratio(got[kept], expected[kept])
    if ratio is None or ratio <= 1 + CLOSE:
        return None
    share, drawn = 1 - 1 / ratio, 1 - (kept.sum() / alive.sum()).item()
    spread = math.sqrt(share * (1 - share) / alive.sum().item())
    return share if abs(share - drawn) < 5 * spread else None


def floored_lengths(evidence: Evidence) -> str | None:
    """Each length is the input's divided by the subsampling factor, rounded down; NeMo's is larger."""
    factor = evidence.encoder_config.get("subsampling_factor", 1)
    given = evidence.pair.nemo.input(evidence.culprit.nemo, "lengths") if evidence.is_call else None
    if given is None:
        return None
    for x in evidence.outputs():
        if torch.equal(x.got, given // factor) and bool((x.got <= x.expected).all()):
            steps = f"{given.tolist()} frames are {x.expected.tolist()} steps in NeMo, {x.got.tolist()} here"
            return f"floored lengths: {steps}, divided by {factor} and rounded down"
    return None


def block_order(evidence: Evidence) -> str | None:
    """A part of the culprit gets what NeMo gives to another part."""
    if not evidence.is_call:
        return None
    pair, prefix = evidence.pair, f"{evidence.culprit.module}."
    parts = [(o, n) for o, n in pair.calls() if n.phase == evidence.culprit.phase and is_part(n.module, prefix)]
    inputs = [(n, pair.ours.input(o, "x"), pair.nemo.input(n, "x")) for o, n in parts]
    inputs = [(n.module.removeprefix(prefix), got, x) for n, got, x in inputs if got is not None and x is not None]
    for part, got, expected in inputs:
        for other, _, elsewhere in inputs:
            if part != other and close(got, elsewhere) and not close(expected, elsewhere, within=1e-3):
                return f"block order: {part} gets what NeMo gives to {other}"
    return None


def is_child(module: str, prefix: str) -> bool:
    return module.startswith(prefix) and "." not in module.removeprefix(prefix)


def is_part(module: str, prefix: str) -> bool:
    """A child, or one of a list of children, as `encoder.layers.0` is of `encoder.`."""
    return module.startswith(prefix) and re.fullmatch(r"[^.]+(\.\d+)?", module.removeprefix(prefix)) is not None


def missing_mask(evidence: Evidence) -> str | None:
    """The mask lacks padding, or what stands in the padding reaches real steps."""
    x = evidence.handed
    if x is not None and x.got.dtype == torch.bool and x.got.shape == x.expected.shape:
        lacking, added = x.expected & ~x.got, x.got & ~x.expected
        lengths = evidence.pair.axes.lengths(evidence.culprit.phase, x.got.shape[-1])
        if lacking.any() and not added.any() and lengths is not None and is_padding_only(lacking, lengths):
            return (
                f"missing padding mask: {x.place} doesn't hide {int(lacking.sum())} entries of padding that NeMo's does"
            )
        return None
    if not evidence.is_call or evidence.culprit.phase == TRAINING or not evidence.right_without_padding():
        return None
    return "missing padding mask: without the padding behind it, an utterance alone comes out as NeMo's"


def is_padding_only(entries: Tensor, lengths: Tensor) -> bool:
    """(B, ..., S) bool: all true entries stand on a padded key or, in (B, S, S), in the row of a padded query."""
    if len(entries) != len(lengths):
        return False
    padded = torch.arange(entries.shape[-1]) >= lengths[:, None]
    allowed = padded.view(len(lengths), *[1] * (entries.dim() - 2), -1)
    if entries.dim() == 3 and entries.shape[1] == entries.shape[2]:
        allowed = allowed | padded[:, :, None]
    return not bool((entries & ~allowed).any())


def in_time(evidence: Evidence) -> str | None:
    """Reversed, or some steps early or late."""
    for x in evidence.places():
        axis = 1 if x.axis is None and x.got.dim() == 3 else x.axis
        if axis is None or x.got.shape != x.expected.shape or x.got.shape[axis] < ENOUGH or x.got.dtype == torch.bool:
            continue
        if close(x.got.flip(axis), x.expected) and not close(x.expected.flip(axis), x.expected, within=1e-3):
            return f"reversed: {x.place} runs backwards in time"
        for shift in (1, 2, -1, -2):
            if is_shifted(x, axis, shift):
                steps = f"{abs(shift)} step{'s' * (abs(shift) > 1)}"
                return f"shifted: {x.place} comes {steps} {'late' if shift > 0 else 'early'}"
    return None


def is_shifted(x: Tensors, axis: int, shift: int) -> bool:
    """got[t + shift] = expected[t] wherever both are real."""
    real = int(x.lengths.min()) if x.lengths is not None and x.axis is not None else x.got.shape[axis]
    size = real - abs(shift)
    if size < ENOUGH:
        return False
    late, early = (x.got, x.expected) if shift > 0 else (x.expected, x.got)
    late, early = late.narrow(axis, abs(shift), size), early.narrow(axis, 0, size)
    steady = close(x.expected.narrow(axis, 1, size), x.expected.narrow(axis, 0, size), within=1e-3)
    return close(late, early) and not steady


def scrambled_axes(evidence: Evidence) -> str | None:
    """NeMo's numbers in another order, utterance by utterance."""
    for x in evidence.places():
        if x.got.dim() < 2 or x.got.dtype == torch.bool or x.got.numel() != x.expected.numel() or len(x.got) == 0:
            continue
        got, expected = (t.reshape(len(t), -1).double().sort(dim=1).values for t in (x.got, x.expected))
        several = len(expected[0].unique()) >= ENOUGH
        if several and close(got, expected):
            return f"scrambled axes: {x.place} has NeMo's numbers in another order"
    return None


def constant_factor(evidence: Evidence) -> str | None:
    """NeMo's numbers times a constant."""
    for x in evidence.places():
        if x.got.shape != x.expected.shape or not x.got.is_floating_point():
            continue
        ratio = constant_ratio(x.got, x.expected)
        if ratio is not None and abs(ratio - 1) > 1e-4:
            return f"constant factor: {x.place} is NeMo's times {in_words(ratio, evidence)}"
    return branch_factor(evidence)


def branch_factor(evidence: Evidence) -> str | None:
    """What is added to the culprit's input on its way to a part is NeMo's times a constant."""
    x = evidence.handed
    if x is None:
        return None
    nemo = evidence.pair.nemo
    inside = [c for c in nemo.calls if is_child(c.module, f"{evidence.culprit.module}.")]
    for call in [evidence.culprit.nemo, *(c for c in inside if c.phase == evidence.culprit.phase)]:
        start = nemo.input(call, "x")
        if start is None or start.shape != x.expected.shape or not x.expected.is_floating_point():
            continue
        ratio = constant_ratio(x.got - start, x.expected - start, within=1e-4)
        if ratio is not None and abs(ratio - 1) > 0.01:
            return f"constant factor: what is added in front of {x.place} is NeMo's times {in_words(ratio, evidence)}"
    return None


def constant_ratio(got: Tensor, expected: Tensor, within: float = CLOSE) -> float | None:
    """r with got = r * expected."""
    got, expected = got.double().flatten(), expected.double().flatten()
    square = (expected * expected).sum()
    if got.numel() < ENOUGH or not square > 0 or not got.isfinite().all():
        return None
    ratio = ((got * expected).sum() / square).item()
    return ratio if ratio and close(got, ratio * expected, within) else None


def in_words(ratio: float, evidence: Evidence) -> str:
    d_model = evidence.encoder_config["d_model"]
    known = {math.sqrt(d_model): ", sqrt(d_model)", 1 / math.sqrt(d_model): ", 1/sqrt(d_model): xscaling is missing"}
    name = next((name for value, name in known.items() if math.isclose(value, ratio, rel_tol=1e-4)), "")
    return f"{ratio:.6g}{name}"


class HalfTensors(TorchDispatchMode):
    """Inside, `found` gathers the half-precision types of whatever is computed."""

    def __init__(self):
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        self.found |= {x.dtype for x in tensors_in(output) if x.dtype in HALF_TYPES}
        return output


def half_inside(evidence: Evidence) -> str | None:
    """Half precision that no input and no output of the module shows."""
    with HalfTensors() as half:
        evidence.replay()
    found = ", ".join(sorted(map(str, half.found)))
    return f"dtype: {found} is used inside {evidence.culprit.module}" if found else None


CAUSES: dict[str, Cause] = {  # in the order in which they are tried
    "dtype": dtype,
    "floored lengths": floored_lengths,
    **TRAINING_CAUSES,
    **FEATURE_CAUSES,
    "block order": block_order,
    "reversed or shifted": in_time,
    "scrambled axes": scrambled_axes,
    "constant factor": constant_factor,
    "dropout active": dropout,
    "missing padding mask": missing_mask,
    "half precision inside": half_inside,
}


def likely_cause(evidence: Evidence) -> str:
    """The first cause whose numbers hold; "" where none does."""
    return next(said(evidence), "")


def said(evidence: Evidence) -> Iterator[str]:
    for cause in CAUSES.values():
        if sentence := cause(evidence):
            yield sentence
