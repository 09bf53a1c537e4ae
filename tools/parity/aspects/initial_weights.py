"""How fresh weights are distributed: what a training from scratch starts from, where copied weights hide a mistake."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from tools.parity.aspects.mask_statistics import limit
from tools.parity.cases import SEED
from tools.parity.records import Measured, Record
from tools.parity.rows import FAILED, PASSED, Row
from tools.parity.side import Side

NAME = LEVEL = "initial_weights"
BUILDS = 6  # models of which the weights of a name are put together
LARGE = 2_000_000  # weights of which one model is enough
ENOUGH = 2000  # numbers from which the shape of a distribution can be told, besides its place and width
FIRST_SEED = {"nemo": SEED + 100, "ours": SEED + 200}  # two independent samples
CODEBOOKS = "quantizer.codebooks"
CONSTANT = "one value, which takes no part in chance"
DRAWN = (
    "standard errors of a difference of two samples, in mean, logarithm of the standard deviation, or kurtosis: the "
    "largest of all names exceeds the limit as seldom as a normal variable 5 sigma"
)
UNIT = "each code has length 1, but for rounding"
Moments = dict[str, float]


def measure(side: Side) -> Measured:
    """facts: for each trained or frozen tensor its moments over BUILDS models; for codes the range of their lengths."""
    first = weights_of(side, FIRST_SEED[side.name])
    builds = 1 if sum(map(Tensor.numel, first.values())) > LARGE else BUILDS
    models = [first, *(weights_of(side, FIRST_SEED[side.name] + build) for build in range(1, builds))]
    drawn = {name: torch.cat([model[name].flatten() for model in models]) for name in first}
    facts = {"moments": {name: moments(values.double()) for name, values in drawn.items()}}
    if CODEBOOKS in first:
        lengths = first[CODEBOOKS].double().norm(dim=-1)
        facts["code_lengths"] = [lengths.min().item(), lengths.max().item()]
    return Measured(facts=facts)


def weights_of(side: Side, seed: int) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in parameters(side.fresh(seed))}


def parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Of several names of one parameter the first in the alphabet, as both sides have it."""
    seen: set[int] = set()
    for name, value in sorted(module.named_parameters(remove_duplicate=False)):
        if id(value) not in seen:
            seen.add(id(value))
            yield name, value


def moments(x: Tensor) -> Moments:
    """Of (N,) numbers: how many, mean, standard deviation, kurtosis (normal 3, uniform 1.8)."""
    mean, std = x.mean().item(), x.std(correction=0).item()
    kurtosis = ((x - mean) / std).pow(4).mean().item() if std else 0.0
    return {"count": len(x), "mean": mean, "std": std, "kurtosis": kurtosis}


def compare(ours: Record, nemo: Record) -> Iterator[Row]:
    mine, theirs = (record.measured[NAME].facts for record in (ours, nemo))
    most = limit(len(theirs["moments"]))
    for name, expected in theirs["moments"].items():
        row = compare_moments(name, mine["moments"].get(name), expected, most)
        yield replace(row, level=LEVEL, module=name.rpartition(".")[0])
    if "code_lengths" in theirs:
        yield compare_lengths(mine.get("code_lengths"), theirs["code_lengths"])


def compare_moments(name: str, got: Moments | None, expected: Moments, most: float) -> Row:
    if got is None or got["count"] != expected["count"]:
        return Row(LEVEL, name, FAILED, math.inf, most, DRAWN, "missing" if got is None else "of another size")
    if expected["std"] == 0.0 or got["std"] == 0.0:
        same = (got["mean"], got["std"]) == (expected["mean"], expected["std"])
        error = abs(got["mean"] - expected["mean"]) + got["std"]
        return Row(LEVEL, name, PASSED if same else FAILED, error, 0.0, CONSTANT, "" if same else both(got, expected))
    error = max(standard_errors(got, expected).values())
    passed = error <= most
    return Row(LEVEL, name, PASSED if passed else FAILED, error, most, DRAWN, "" if passed else both(got, expected))


def standard_errors(got: Moments, expected: Moments) -> dict[str, float]:
    """How far two samples of one size are apart, in units of what chance alone makes of it."""
    count = expected["count"]
    width = math.sqrt((expected["kurtosis"] - 1) / (4 * count))
    errors = {
        "mean": abs(got["mean"] - expected["mean"]) / (expected["std"] * math.sqrt(2 / count)),
        "std": abs(math.log(got["std"] / expected["std"])) / max(width * math.sqrt(2), 1e-12),
    }
    if count >= ENOUGH:
        errors["kurtosis"] = abs(got["kurtosis"] - expected["kurtosis"]) / math.sqrt(2 * 24 / count)
    return errors


def both(got: Moments, expected: Moments) -> str:
    return ", ".join(f"{name} {got[name]:.4g} instead of {expected[name]:.4g}" for name in ("mean", "std", "kurtosis"))


def compare_lengths(got: list[float] | None, expected: list[float]) -> Row:
    error = math.inf if got is None else max(abs(a - b) for a, b in zip(got, expected))
    detail = "" if error <= 1e-6 else f"codes of length {got} instead of {expected}, shortest and longest"
    status = PASSED if error <= 1e-6 else FAILED
    return Row(LEVEL, "length of a code", status, error, 1e-6, UNIT, detail, "quantizer")
