"""The table of what a checkpoint may name beside types of numbers.

NeMo and Lightning save configs as omegaconf objects, and these drag along names of types. None of that code is needed
to read them, and some of it does much with what it's given: torch gets stand-ins of ours, which hold data and can't do
anything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath

from utils.checkpoint_files import pickle_calls as calls
from utils.checkpoint_files.config_references import resolved


class ConfigNode:
    """Of an omegaconf object: the dict, list, text or number in it. What the file calls its parent is dropped."""

    content: object = None

    def __setstate__(self, state: dict) -> None:
        self.content = state["_content"] if "_content" in state else state.get("_val")


class Ignored(ConfigNode):
    """What omegaconf knows about an object: types, flags."""

    def __setstate__(self, state: dict) -> None:
        self.content = None


class TypeName:
    """A class that is only named, as the type of something."""

    def __new__(cls, *_: object) -> None:
        raise ValueError(f"makes an object of {cls.__module__}.{cls.__qualname__}")


class OrdinaryDict:
    """For a defaultdict: what it calls for missing keys isn't kept."""

    def __new__(cls, _: type | None = None) -> dict:
        return {}


class PosixText:
    """For a path: its text."""

    def __new__(cls, *parts: str) -> str:
        return str(PurePosixPath(*parts))


class WindowsText:
    def __new__(cls, *parts: str) -> str:
        return str(PureWindowsPath(*parts))


@dataclass(frozen=True)
class Safe:
    """What a name is good for; without either it may only be named.

    call: what is asked of the arguments when a pickle calls it. stand_in: what torch gets in its place.
    """

    call: Callable | None = None
    stand_in: type | None = None


SAFE: dict[str, Safe] = {
    "torch._utils._rebuild_tensor_v2": Safe(calls.tensor_v2),
    "torch._utils._rebuild_tensor_v3": Safe(calls.tensor_v3),
    "torch._utils._rebuild_parameter": Safe(calls.parameter_of),
    "torch.Size": Safe(calls.torch_size),
    "torch.device": Safe(calls.torch_device),
    "collections.OrderedDict": Safe(calls.ordered_dict),
    "collections.Counter": Safe(calls.counter),
    "collections.defaultdict": Safe(calls.default_dict, OrdinaryDict),
    "builtins.set": Safe(calls.flat_set),
    "builtins.complex": Safe(calls.complex_number),
    "builtins.bytearray": Safe(calls.byte_array),
    "builtins.dict": Safe(stand_in=TypeName),
    "builtins.int": Safe(stand_in=TypeName),
    "builtins.list": Safe(stand_in=TypeName),
    "builtins.str": Safe(stand_in=TypeName),
    "typing.Any": Safe(stand_in=TypeName),
    "typing.Dict": Safe(stand_in=TypeName),
    "typing.List": Safe(stand_in=TypeName),
    "_codecs.encode": Safe(calls.byte_string),
    "pathlib.PosixPath": Safe(calls.path_text, PosixText),
    "pathlib._local.PosixPath": Safe(calls.path_text, PosixText),  # as Python 3.13 writes it
    "pathlib.WindowsPath": Safe(calls.path_text, WindowsText),
    "pathlib._local.WindowsPath": Safe(calls.path_text, WindowsText),
    "omegaconf.dictconfig.DictConfig": Safe(stand_in=ConfigNode),
    "omegaconf.listconfig.ListConfig": Safe(stand_in=ConfigNode),
    "omegaconf.nodes.AnyNode": Safe(stand_in=ConfigNode),
    "omegaconf.base.ContainerMetadata": Safe(stand_in=Ignored),
    "omegaconf.base.Metadata": Safe(stand_in=Ignored),
}
CONFIG_NODES = [name for name, safe in SAFE.items() if safe.stand_in and issubclass(safe.stand_in, ConfigNode)]


def stand_in(path: str, base: type) -> type:
    """A class that goes by another one's name, by which torch finds it."""
    module, _, name = path.rpartition(".")
    return type(name, (base,), {"__module__": module, "__qualname__": name})


# for torch: the other names of the table it knows itself
SAFE_GLOBALS: list[type] = [stand_in(path, safe.stand_in) for path, safe in SAFE.items() if safe.stand_in is not None]


def plain(value: object, path: str = "") -> object:
    """`value` without stand-ins; dicts and lists are changed in place, and keep their kind.

    A config becomes plain data, its references to its own keys resolved.
    path: where `value` stands, used in messages.
    Raises ValueError for references to anything else (see `utils.checkpoint_files.config_references`).
    """
    return _plain(value, path, {})


def _plain(value: object, path: str, done: dict[int, object]) -> object:
    if isinstance(value, ConfigNode):
        return resolved(_content(value), path)
    if isinstance(value, type) and value in SAFE_GLOBALS:
        return f"{value.__module__}.{value.__qualname__}"
    if type(value) is tuple:
        return tuple(_plain(item, f"{path}[{i}]", done) for i, item in enumerate(value))
    if not isinstance(value, dict | list) or id(value) in done:
        return value
    done[id(value)] = value  # kept, so that no other object gets its id
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        value[key] = _plain(item, f"{path}.{key}" if path else str(key), done)
    return value


def _content(value: object) -> object:
    """Of a config node and all in it; a config has no tensors or other objects."""
    if isinstance(value, ConfigNode):
        return _content(value.content)
    if isinstance(value, dict):
        return {key: _content(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_content(item) for item in value]
    return _plain(value, "", {})
