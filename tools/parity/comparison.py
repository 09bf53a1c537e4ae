"""Compare the levels that two implementations computed, each level with its own tolerance."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from tools.parity.levels import LEVELS, Levels

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
    return ((got - expected).abs().max() / expected.abs().max()).item()


def in_norm(got: Tensor, expected: Tensor, largest_norm: float) -> float:
    """Euclidean length of the difference, in units of the expected one plus FAINT."""
    return ((got - expected).norm() / (expected.norm() + FAINT * largest_norm)).item()


COUNTED = "counts and indices have no rounding"
ROUNDED = "float32 rounds at 6e-8; matrix products of another order add up to some 1e-6 per layer"
TRAINED = "as above, and normalised by statistics of the batch"
KINKED = "rounding flips single ReLUs on their way back, which moves single entries: the norm is compared"
TOLERANCES = {
    "length": Tolerance(unequal, 0.0, COUNTED),
    "feature": Tolerance(in_range, 1e-3, "the logarithm of nearly silent bands magnifies the rounding of the FFT"),
    "code": Tolerance(in_range, 1e-6, "codes are copied from the codebook"),
    "token": Tolerance(unequal, 0.0, COUNTED + "; no token of the records is a tie"),
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


def errors(got: Levels, expected: Levels) -> Iterator[tuple[str, float]]:
    """(`level/what`, error) of everything expected, in the order of the computation; infinite where it is missing."""
    for level in LEVELS:
        names = sorted(name for name in expected if name.split("/")[0] == level)
        largest_norm = max((expected[name].double().norm().item() for name in names), default=0.0)
        for name in names:
            if name not in got or got[name].shape != expected[name].shape:
                yield name, float("inf")
            else:
                yield name, TOLERANCES[level].error(got[name].double(), expected[name].double(), largest_norm)


def first_difference(got: Levels, expected: Levels) -> str | None:
    """What differs first, and by how much; None where all levels agree."""
    for name, error in errors(got, expected):
        tolerance = TOLERANCES[name.split("/")[0]]
        if not error <= tolerance.limit:  # also for NaN
            return f"{name} differs by {error:.1e}, more than {tolerance.limit:.0e} ({tolerance.reason})"
    extra = sorted(name for name in set(got) - set(expected) if not name.startswith("parameter/"))
    return f"{extra[0]} is there, and should not be" if extra else None


def without_noise(levels: Levels) -> Levels:
    """The levels without parameters that follow rounding noise, see SMALLEST_GRADIENT."""
    norms = {name: tensor.norm().item() for name, tensor in levels.items() if name.startswith("gradient/")}
    smallest = SMALLEST_GRADIENT * max(norms.values(), default=0.0)
    noise = {name.replace("gradient/", "parameter/", 1) for name, norm in norms.items() if norm < smallest}
    return {name: tensor for name, tensor in levels.items() if name not in noise}
