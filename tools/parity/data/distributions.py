"""Two sets of draws: are they of one distribution?"""

import math
from statistics import NormalDist

import numpy as np
from torch import Tensor

from tools.parity.rows import FAILED, PASSED, Row

RARE = 1e-5  # how often a correct implementation is refused, if its seeds were drawn; they are fixed
ROWS = 30  # of one comparison, at most, each of which may refuse it
RARE_IN_A_ROW = RARE / ROWS
DEVIATES = -NormalDist().inv_cdf(RARE_IN_A_ROW / 2)  # standard deviations, both sides, that are as rare
OFTEN = f"fixed seeds; draws of one distribution differ by more, in any row, once in {round(1 / RARE):,} comparisons"


def same_distribution(level: str, what: str, ours: Tensor, nemo: Tensor, module: str) -> Row:
    """Kolmogorov-Smirnov: the largest distance of the two empirical distributions. ours: (n,), nemo: (m,)."""
    n, m = len(ours), len(nemo)
    if not n or not m:
        status = PASSED if n == m else FAILED
        return Row(level, what, status, 0.0 if n == m else math.inf, 0.0, OFTEN, f"{n} draws, NeMo {m}", module)
    limit = math.sqrt(-math.log(RARE_IN_A_ROW / 2) / 2 * (n + m) / (n * m))
    values, here, there = np.unique(np.concatenate([ours, nemo])), np.sort(ours), np.sort(nemo)
    distances = np.abs(
        np.searchsorted(here, values, side="right") / n - np.searchsorted(there, values, side="right") / m
    )
    error, at = float(distances.max()), values[distances.argmax()]
    status = PASSED if error <= limit and np.isfinite(values).all() else FAILED
    detail = f"{spread(here)} instead of {spread(there)}; furthest apart at {at:.4g}"
    return Row(level, what, status, error, limit, OFTEN, "" if status == PASSED else detail, module)


def spread(ordered: np.ndarray) -> str:
    low, middle, high = np.quantile(ordered, [0.05, 0.5, 0.95])
    return f"{middle:.4g} ({low:.4g} to {high:.4g})"


def same_share(level: str, what: str, ours: Tensor, nemo: Tensor, module: str) -> Row:
    """How often a thing happens. ours: (n,) of 0 and 1; nemo: (m,)."""
    n, m = len(ours), len(nemo)
    here, there = ours.double().mean().item(), nemo.double().mean().item()
    pooled = (here * n + there * m) / (n + m)
    limit = DEVIATES * math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    error = abs(here - there)
    status = PASSED if error <= limit else FAILED
    detail = "" if status == PASSED else f"{here:.3f} instead of {there:.3f}"
    return Row(level, what, status, error, limit, OFTEN, detail, module)
