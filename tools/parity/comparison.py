"""Compare the levels that two implementations computed, each level with its own tolerance."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tools.parity.cases import Levels
from tools.parity.levels import FROZEN, LEVELS
from tools.parity.rows import FAILED, PASSED, Row

FAINT = 0.03  # share of the largest norm of its level that adds to a tensor's own: below it all is rounding in the end

# A parameter whose gradient vanishes in theory (the bias of the keys, a bias in front of a batch norm), or an entry of
# one (a position feature that is the same at all distances), has one of rounding noise, and Adam makes whole steps of
# it: below this share of the largest gradient's norm, or of its parameter's largest entry, either way is right.
SMALLEST_GRADIENT = 1e-3
ADAMS_STEP = 1.75  # of learning rates, at most: sqrt of the sum of m's squared weights over v's, of betas 0.9 and 0.98


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
NOISE = "its gradient is rounding noise, of which Adam makes steps up to the learning rate, either way"
TOLERANCES = {
    "length": Tolerance(unequal, 0.0, COUNTED),
    "feature": Tolerance(in_range, 1e-3, "the logarithm of nearly silent bands magnifies the rounding of the FFT"),
    "code": Tolerance(in_range, 1e-6, "codes are copied from the codebook"),
    "token": Tolerance(unequal, 0.0, COUNTED + "; ties are settled in `ties`"),
    "subsampled": Tolerance(in_range, 1e-5, ROUNDED),
    "layer": Tolerance(in_range, 1e-5, ROUNDED),
    "encoded": Tolerance(in_range, 1e-5, ROUNDED),
    "log_prob": Tolerance(in_range, 1e-5, ROUNDED),
    "loss": Tolerance(in_range, 2e-6, "a mean over all scored steps, whose errors cancel"),
    "training_length": Tolerance(unequal, 0.0, COUNTED),
    "training_subsampled": Tolerance(in_range, 1e-5, ROUNDED),
    "training_layer": Tolerance(in_range, 2e-5, TRAINED),
    "training_encoded": Tolerance(in_range, 2e-5, TRAINED),
    "training_loss": Tolerance(in_range, 2e-6, "as in evaluation"),
    "input_gradient": Tolerance(in_norm, 5e-4, KINKED),
    "gradient": Tolerance(in_norm, 5e-4, KINKED),
    "batch_norm": Tolerance(in_range, 1e-5, "a tenth of the batch's statistics, added to what was there"),
    "learning_rate": Tolerance(in_range, 1e-9, "a formula in float64"),
    "step_loss": Tolerance(in_range, 5e-5, "each step starts from parameters that differ by the rounding of the last"),
    "parameter": Tolerance(in_norm, 1e-2, "of how far it was moved; Adam magnifies the rounding of small gradients"),
}
UNMOVED = Tolerance(unequal, 0.0, "the optimizer leaves them alone")


def compare_levels(got: Levels, expected: Levels) -> Iterator[Row]:
    """A row for everything expected, in the order of the computation, and for what is there and should not be."""
    noise, farthest = noise_of(expected), adams_way(expected)
    for level in LEVELS:
        names = sorted((name for name in expected if name.split("/")[0] == level), key=natural)
        largest_norm = max((expected[name].double().norm().item() for name in names), default=0.0)
        for name in names:
            ours = got.get(name)
            if name in noise and ours is not None and ours.shape == expected[name].shape:
                yield compare_movement(name, ours, expected[name], largest_norm, noise[name], farthest)
            else:
                yield compare_tensor(level, name, ours, expected[name], largest_norm)
        for name in sorted(name for name in set(got) - set(expected) if name.split("/")[0] == level):
            what = name.split("/", 1)[1]
            yield Row(level, what, FAILED, float("inf"), reason="NeMo has no such thing", detail="only here")


def compare_tensor(level: str, name: str, got: Tensor | None, expected: Tensor, largest_norm: float) -> Row:
    tolerance, what = UNMOVED if name == FROZEN else TOLERANCES[level], name.split("/", 1)[1]
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


def noise_of(expected: Levels) -> Levels:
    """Which entries of each parameter follow rounding noise, bool: see SMALLEST_GRADIENT."""
    gradients = {name: tensor for name, tensor in expected.items() if name.startswith("gradient/")}
    smallest = SMALLEST_GRADIENT * max((tensor.norm() for tensor in gradients.values()), default=0.0)
    noise = {}
    for name, tensor in gradients.items():
        faint = tensor.abs() < SMALLEST_GRADIENT * tensor.abs().max()
        noise[name.replace("gradient/", "parameter/", 1)] = faint | (tensor.norm() < smallest)
    return noise


def adams_way(expected: Levels) -> float:
    """How far apart two entries can be that Adam moved, each as far as it goes, in opposite directions."""
    sums = [rates.sum().item() for name, rates in expected.items() if name.startswith("learning_rate/")]
    return 2 * ADAMS_STEP * max(sums, default=0.0)


def compare_movement(
    name: str, got: Tensor, expected: Tensor, largest_norm: float, noise: Tensor, farthest: float
) -> Row:
    """The row of how far a parameter was moved.

    largest_norm: of all movements.  noise: the entries that follow rounding noise, which may differ by `farthest`.
    """
    clear = compare_tensor("parameter", name, got.where(~noise, 0.0), expected.where(~noise, 0.0), largest_norm)
    if clear.status == FAILED or not noise.any():
        return clear
    error = (got.double() - expected.double())[noise].abs().max().item()
    if error <= farthest and not noise.all():
        return clear
    status, detail = (PASSED, "") if error <= farthest else (FAILED, largest_difference(got, expected))
    return replace(clear, status=status, error=error, limit=farthest, reason=NOISE, detail=detail)
