"""Samples and lengths of both sides, and how far they may be apart."""

import torch
from torch import Tensor

from tools.parity.comparison import largest_difference
from tools.parity.rows import FAILED, PASSED, Row

LIMIT = 1e-5  # of full scale; a step of 16-bit audio is three times that
REASON = "equal but for the rounding of resampling and averaging: a third of a step of 16-bit audio"
COUNTED = "lengths have no rounding"


def compare_samples(
    what: str,
    got: Tensor | None,
    expected: Tensor,
    *,
    module: str,
    forms: tuple[list | None, list] | None = None,
    step: int = 1,
) -> Row:
    """forms: [dtype, *shape] of both sides before only every `step`-th sample was kept."""
    is_counted = not expected.is_floating_point()
    limit, reason = (0.0, COUNTED) if is_counted else (LIMIT, REASON)
    ours, nemo = forms or (form_of(got), form_of(expected))
    if ours != nemo or got.shape != expected.shape:
        return Row("data", what, FAILED, float("inf"), limit, reason, f"{ours} instead of {nemo}", module)
    if not expected.numel():
        return Row("data", what, PASSED, 0.0, limit, reason, module=module)
    loudest = 1.0 if is_counted else max(1.0, expected.abs().max().item())
    error = (got.double() - expected.double()).abs().max().item() / loudest
    if error <= limit:  # never for NaN
        return Row("data", what, PASSED, error, limit, reason, module=module)
    every = f"one sample in {step} is kept; of these " if step > 1 and not is_counted else ""
    where = every + largest_difference(*map(torch.atleast_1d, (got, expected)))
    return Row("data", what, FAILED, error, limit, reason, where, module)


def form_of(tensor: Tensor | None) -> list | None:
    return None if tensor is None else [str(tensor.dtype).removeprefix("torch."), *tensor.shape]


def is_usable(samples: Tensor) -> bool:
    """Whether there is something to learn from, as ours has it: finite, of full scale about 1, not silent."""
    if not samples.numel() or not torch.isfinite(samples).all():
        return False
    return samples.abs().max().item() <= 100.0 and (samples - samples.mean()).abs().max().item() > 1e-4
