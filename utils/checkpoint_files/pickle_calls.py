"""What may be called in a checkpoint's pickle, each with what is asked of its arguments. Nothing is made or run."""

import math
import re
from dataclasses import dataclass, field

import torch

REPEATED_VALUES = 1_000_000  # how many a tensor may have that repeats few stored ones
LOCATION = re.compile(r"(cpu|cuda|mps|xpu|hpu|xla|npu|mtia|privateuseone)(:\d+)?")
NUMBERS = re.compile(r"torch\.(bool|u?int(8|16|32|64)|b?float(16|32|64)|float8_\w+|complex(32|64|128))")
DTYPES: dict[str, torch.dtype] = {
    str(value): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype) and NUMBERS.fullmatch(str(value))
}
STORAGES: dict[str, torch.dtype] = {
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.ShortStorage": torch.int16,
    "torch.storage.UntypedStorage": torch.uint8,
}


@dataclass(frozen=True)
class Named:
    """Something that the pickle names: a class, a function, a dtype."""

    name: str


@dataclass(frozen=True)
class Storage:
    """dtype: of its values; those of a newer dtype come in bytes. size: bytes."""

    dtype: torch.dtype
    size: int


class Leaf:
    """A tensor, device or set that is all right."""


@dataclass(eq=False)
class Filled:
    """A dict, or an object and its state."""

    name: str
    items: dict = field(default_factory=dict)


def check(holds: bool, reason: str) -> None:
    if not holds:
        raise ValueError(reason)


def is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def tensor_v2(storage: Storage, offset: int, shape: tuple, strides: tuple, *more: object) -> Leaf:
    """torch._utils._rebuild_tensor_v2."""
    return tensor_in(storage, storage.dtype, offset, shape, strides, *more)


def tensor_v3(
    storage: Storage,
    offset: int,
    shape: tuple,
    strides: tuple,
    needs_grad: bool,
    hooks: Filled,
    dtype: Named,
    bits: Filled | None = None,
) -> Leaf:
    """torch._utils._rebuild_tensor_v3."""
    return tensor_in(storage, DTYPES[dtype.name], offset, shape, strides, needs_grad, hooks, bits)


def tensor_in(
    storage: Storage,
    dtype: torch.dtype,
    offset: int,
    shape: tuple,
    strides: tuple,
    needs_grad: bool,
    hooks: Filled,
    bits: Filled | None = None,
) -> Leaf:
    """A tensor, if all of it lies in its storage (torch would make the storage larger) and it has no hooks.

    bits: whether its values are to be conjugated or negated as they are read.
    """
    check(isinstance(storage, Storage) and type(needs_grad) is bool and not hooks.items, "has a damaged tensor")
    check(bits is None or (bits.items.keys() <= {"conj", "neg"} and holds_only(bits, bool)), "has a damaged tensor")
    check(all(map(is_count, (offset, *shape, *strides))) and len(shape) == len(strides), "has a damaged tensor")
    size, values = storage.size // dtype.itemsize, math.prod(shape)
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides))
    if (values and last >= size) or values > max(size, REPEATED_VALUES):
        raise ValueError(f"claims a tensor of shape {list(shape)} in a storage of {size} values")
    return Leaf()


def holds_only(filled: Filled, *kinds: type) -> bool:
    return all(type(value) in kinds for value in filled.items.values())


def parameter_of(data: Leaf, needs_grad: bool, hooks: Filled) -> Leaf:
    """torch._utils._rebuild_parameter."""
    check(isinstance(data, Leaf) and type(needs_grad) is bool and not hooks.items, "has a damaged parameter")
    return data


def ordered_dict() -> Filled:
    return Filled("collections.OrderedDict")


def default_dict(factory: Named | None = None) -> Filled:
    check(factory is None or isinstance(factory, Named), "has a damaged defaultdict")
    return Filled("collections.defaultdict")


def counter(counts: Filled) -> Filled:
    check(isinstance(counts, Filled) and holds_only(counts, int, float, bool), "has a damaged Counter")
    return Filled("collections.Counter", dict(counts.items))


def flat_set(items: list) -> Leaf:
    check(all(type(item) in (str, int, float, bool) for item in items), "has a set of more than text and numbers")
    return Leaf()


def torch_size(lengths: tuple) -> tuple:
    check(all(map(is_count, lengths)), "has a damaged torch.Size")
    return lengths


def torch_device(kind: str, index: int = 0) -> Leaf:
    check(LOCATION.fullmatch(kind) is not None and is_count(index), f"has an unknown device, {kind!r:.80}")
    return Leaf()


def complex_number(real: float, imaginary: float) -> Leaf:
    check(type(real) is type(imaginary) is float, "has a damaged complex number")
    return Leaf()


def byte_string(text: str, encoding: str) -> bytes:
    check(encoding == "latin1", f"has bytes in an encoding that torch.save doesn't write, {encoding!r:.80}")
    return text.encode(encoding)


def byte_array(content: bytes = b"") -> bytes:
    check(type(content) is bytes, "has a damaged bytearray")
    return content


def path_text(*parts: str) -> str:
    check(all(type(part) is str for part in parts), "has a damaged path")
    return "/".join(parts)
