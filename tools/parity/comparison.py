"""Compare the levels that two implementations computed, each level with its own tolerance."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.parity.cases import Levels
from tools.parity.levels import LEVELS
from tools.parity.rows import FAILED, PASSED, Row

FAINT = 0.03  # share of the largest norm of its level that adds to a tensor's own: below it all is rounding in the end

# A parameter whose gradient vanishes in theory (the bias of the keys, a bias in front of a batch norm) has one of
# rounding noise, and Adam makes whole steps of it: not compared below this share of the largest gradient.
SMALLEST_GRADIENT = 1e-3


@dataclass(frozen=True)
class Tolerance:
    error: Callable[[Tensor, Tensor, float], float]
    limit: float
    reason: str


def unequal(got: Tensor, expected: Tensor, largest_norm: float) -> float:
    """Share of entries that differ at all."""
    return (got != expected).double().mean().item()


def in_range(got: Tensor, expected: Tensor, largest_norm: float) -> float:
    """Largest difference, in units of the largest expected entry."""
    difference, largest = (got - expected).abs().max(), expected.abs().max()
    return (difference / largest).item() if largest > 0 else difference.item()


def in_norm(got: Tensor, expected: Tensor, largest_norm: float) -> float:
    """Euclidean length of the difference, in units of the expected one plus FAINT."""
    scale = expected.norm() + FAINT * largest_norm
    return ((got - expected).norm() / scale).item() if scale > 0 else (got - expected).norm().item()


COUNTED = "counts and indices have no rounding"
ROUNDED = "float32 rounds at 6e-8; matrix products of another order add up to some 1e-6 per layer"
TRAINED = "as in evaluation, and normalised by statistics of the batch"
KINKED = "rounding flips single ReLUs on their way back, which moves single entries: the norm is compared"
TOLERANCES = {
    "length": Tolerance(unequal, 0.0, COUNTED),
    "feature": Tolerance(in_range, 1e-3, "the logarithm of nearly silent bands magnifies the rounding of the FFT"),
    "code": Tolerance(in_range, 1e-6, "codes are copied from the codebook"),
    "token": Tolerance(unequal, 0.0, COUNTED + "; ties are settled in `ties`"),
    "subsampled": Tolerance(in_range, 1e-4, ROUNDED),
    "layer": Tolerance(in_range, 1e-4, ROUNDED),
    "encoded": Tolerance(in_range, 1e-4, ROUNDED),
    "log_prob": Tolerance(in_range, 1e-4, ROUNDED),
    "loss": Tolerance(in_range, 2e-5, "a mean over all scored steps, whose errors cancel"),
    "training_length": Tolerance(unequal, 0.0, COUNTED),
    "training_subsampled": Tolerance(in_range, 1e-4, ROUNDED),
    "training_layer": Tolerance(in_range, 2e-4, TRAINED),
    "training_encoded": Tolerance(in_range, 2e-4, TRAINED),
    "training_loss": Tolerance(in_range, 2e-5, "as in evaluation"),
    "input_gradient": Tolerance(in_norm, 5e-3, KINKED),
    "gradient": Tolerance(in_norm, 5e-3, KINKED),
    "batch_norm": Tolerance(in_range, 1e-4, "a tenth of the batch's statistics, added to what was there"),
    "learning_rate": Tolerance(in_range, 1e-9, "a formula in float64"),
    "step_loss": Tolerance(in_range, 5e-4, "each step starts from parameters that differ by the rounding of the last"),
    "parameter": Tolerance(in_norm, 1e-2, "Adam makes a whole step of a gradient of rounding noise, too"),
}


def compare_levels(got: Levels, expected: Levels) -> Iterator[Row]:
    """A row for everything expected, in the order of the computation, and for what is there and should not be."""
    known, expected = set(expected), without_noise(expected)
    for level in LEVELS:
        names = sorted((name for name in expected if name.split("/")[0] == level), key=natural)
        largest_norm = max((expected[name].double().norm().item() for name in names), default=0.0)
        for name in names:
            yield compare_tensor(level, name, got.get(name), expected[name], largest_norm)
    for name in sorted(set(got) - known):
        level, what = name.split("/", 1)
        yield Row(level, what, FAILED, float("inf"), reason="NeMo has no such thing", detail="only here")


def compare_tensor(level: str, name: str, got: Tensor | None, expected: Tensor, largest_norm: float) -> Row:
    tolerance, what = TOLERANCES[level], name.split("/", 1)[1]
    if got is None or got.shape != expected.shape:
        there = "missing" if got is None else f"shape {tuple(got.shape)}"
        detail = f"{there} instead of shape {tuple(expected.shape)}"
        return Row(level, what, FAILED, float("inf"), tolerance.limit, tolerance.reason, detail)
    if not expected.numel():
        return Row(level, what, PASSED, 0.0, tolerance.limit, tolerance.reason)
    error = tolerance.error(got.double(), expected.double(), largest_norm)
    if error <= tolerance.limit:  # never for NaN
        return Row(level, what, PASSED, error, tolerance.limit, tolerance.reason)
    return Row(level, what, FAILED, error, tolerance.limit, tolerance.reason, largest_difference(got, expected))


def largest_difference(got: Tensor, expected: Tensor) -> str:
    """Where two tensors of one shape differ most, and both values there; a number that isn't finite comes first."""
    difference = (got.double() - expected.double()).abs()
    difference = torch.where(difference.isfinite(), difference, torch.inf)
    index = tuple(int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
    return f"[{', '.join(map(str, index))}]: {got[index].item():.7g} instead of {expected[index].item():.7g}"


def natural(name: str) -> list[tuple[int, str]]:
    """A key by which layer/10 comes after layer/9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.replace("/", ".").split(".")]


def first_difference(got: Levels, expected: Levels) -> str | None:
    """What differs first, and by how much; None where all levels agree."""
    for row in compare_levels(got, expected):
        if row.status == FAILED:
            if row.detail == "only here":
                return f"{row.level}/{row.what} is there, and should not be"
            return f"{row.level}/{row.what} differs by {row.error:.1e}, more than {row.limit:.0e} ({row.reason})"
    return None


def without_noise(levels: Levels) -> Levels:
    """The levels without parameters that follow rounding noise, see SMALLEST_GRADIENT."""
    norms = {name: tensor.norm().item() for name, tensor in levels.items() if name.startswith("gradient/")}
    smallest = SMALLEST_GRADIENT * max(norms.values(), default=0.0)
    noise = {name.replace("gradient/", "parameter/", 1) for name, norm in norms.items() if norm < smallest}
    return {name: tensor for name, tensor in levels.items() if name not in noise}
