"""What two models or files have otherwise: tensors by their digests, options of modules, keys of configurations."""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tools.parity.side import DATA

NOT_COMPARED = ("nemo_version", "own_options")  # who wrote the file; what only this project builds
NO_OPTIONS = ("training", "model_guid")  # a state; NeMo's number of each model object
PLAIN = (bool, int, float, str, type(None))
Facts = dict[str, Any]  # as JSON has it


def digests(state: dict[str, Tensor]) -> dict[str, str]:
    """Name -> 'float32 [16, 8] digest of the bytes'."""
    return {name: digest(tensor) for name, tensor in state.items()}


def digest(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{dtype} {list(tensor.shape)} {hashlib.sha256(content).hexdigest()[:16]}"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def settings(model: nn.Module, besides: Collection[str] = ()) -> Facts:
    """Every plain public attribute of every module, block sizes, strides, thresholds; but for the names `besides`."""
    return {
        f"{name}.{key}".lstrip("."): value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if not key.startswith("_") and key not in {*NO_OPTIONS, *besides} and isinstance(value, PLAIN)
    }


def changes(before: Facts, after: Facts) -> list[str]:
    keys = [key for key in before | after if key not in before or key not in after or before[key] != after[key]]
    return [f"{key}: {after.get(key)!r} instead of {before.get(key)!r}" for key in keys]


def differing_tensors(got: dict[str, str], expected: dict[str, str]) -> list[str]:
    """A line for each tensor that is missing, too many, or other than expected, in the order of the model."""
    names = {content: name for name, content in expected.items()}
    lines = [f"{name} is missing" for name in expected if name not in got]
    lines += [f"{name} is too many" for name in got if name not in expected]
    for name in (name for name in expected if name in got and got[name] != expected[name]):
        whose = names.get(got[name])
        lines.append(f"{name} is {whose}" if whose else f"{name}: {got[name]} instead of {expected[name]}")
    return lines


def differing_keys(got: Facts, expected: Facts, besides: Collection[str] = ()) -> list[str]:
    """A line for each key of two configs that is lost, too many, or has another value; in that order.

    besides: keys that aren't compared.
    """
    got, expected = (compared_keys(config, besides) for config in (got, expected))
    lines = [f"{key} is lost" for key in expected if key not in got]
    lines += [f"{key}: {got[key]!r} is too many" for key in got if key not in expected]
    both = [key for key in expected if key in got]
    return lines + [f"{k}: {got[k]!r} instead of {expected[k]!r}" for k in both if got[k] != expected[k]]


def compared_keys(config: Facts, besides: Collection[str]) -> Facts:
    """Dotted key -> value. A section of data that says None isn't there."""
    keys = {key: value for key, value in flat(config).items() if not (key in DATA and value is None)}
    return {key: value for key, value in keys.items() if not key.startswith(NOT_COMPARED) and key not in besides}


def differing_lines(got: list[str], expected: list[str]) -> list[str]:
    """A line for each place at which two lists differ."""
    if len(got) != len(expected):
        return [f"{len(got)} parameters instead of {len(expected)}"]
    return [
        f"number {i}: {mine} instead of {theirs}"
        for i, (mine, theirs) in enumerate(zip(got, expected))
        if mine != theirs
    ]


def flat(config: Any, path: str = "") -> Facts:
    """Dotted key -> value."""
    if not isinstance(config, dict) or not config:
        return {path: config}
    return {k: v for key, value in config.items() for k, v in flat(value, f"{path}.{key}".lstrip(".")).items()}
