"""A model is not built larger than its file: the sizes in a stranger's config cost time and memory before its weights.

What is built is counted as torch makes it, so that this knows nothing of layers and options.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from core.connectors.nemo_config import built_sections

MAX_NUMBER = 1_000_000  # in a section that names a class: no model has a size beyond it
MORE_TENSORS = 1_000  # than four times those of the file: buffers that aren't saved, parts that aren't loaded
MORE_VALUES = 1 << 26
aten = torch.ops.aten
FACTORIES = {aten.empty.memory_format, *(each.default for each in (aten.zeros, aten.ones, aten.full, aten.randn))}


@contextmanager
def no_larger_than_file(config: Mapping, state_dict: Mapping[str, Tensor], source: str) -> Iterator[None]:
    """For building the model of a file. Raises ValueError, in one line, before it takes much time or memory."""
    check_numbers(config, source)
    try:
        with NoLargerThan(state_dict, source):
            yield
    except MemoryError as error:
        raise ValueError(f"{source}: its config describes a model that doesn't fit into memory") from error


class NoLargerThan(TorchDispatchMode):
    """Within it, making a model much larger than a state dict raises ValueError, in one line."""

    def __init__(self, state_dict: Mapping[str, Tensor], source: str):
        super().__init__()
        self.source = source
        self.tensors = 4 * len(state_dict) + MORE_TENSORS
        self.values = 4 * sum(tensor.numel() for tensor in state_dict.values()) + MORE_VALUES

    def __torch_dispatch__(self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None):
        if function in FACTORIES:
            self.tensors -= 1
            self.values -= math.prod(args[0])
            if self.tensors < 0 or self.values < 0:
                raise ValueError(f"{self.source}: its config describes a model that is far larger than its weights")
        return function(*args, **(kwargs or {}))


def check_numbers(config: Mapping, source: str) -> None:
    """Raise ValueError for a number beyond MAX_NUMBER in a section that names a class. Seeds may be any."""
    for path, section in built_sections(OmegaConf.to_container(OmegaConf.create(config), resolve=True)):
        for key, value in numbers(section):
            if abs(value) > MAX_NUMBER and "seed" not in key:
                raise ValueError(f"{source}: its config has {path}.{key}={value:,}, a size that no model has")


def numbers(section: Mapping) -> Iterator[tuple[str, int | float]]:
    """The numbers of a section and of lists in it, not of sections below."""
    for key, value in section.items():
        for item in value if isinstance(value, list) else [value]:
            if type(item) in (int, float):
                yield str(key), item
