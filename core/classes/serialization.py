"""Config to object, through a table of what may be built: a config from a stranger names no other code.

`core` knows no class by path; packages that own classes register them with `register_targets`.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

TARGETS: dict[str, Callable] = {}


def register_targets(table: Mapping[str, Callable]) -> None:
    """Allow configs to name these `_target_` paths. Registering the same path for another object is an error."""
    for target, builder in table.items():
        if TARGETS.setdefault(target, builder) is not builder:
            raise ValueError(f"_target_ {target!r} is registered already, for {TARGETS[target]!r}")


def from_config_dict(config: Mapping, *, path: str = "config", **extra) -> object:
    """Build the object that `config` describes: its class under `_target_`, constructor arguments in the other keys.

    path: where `config` stands in the whole config; used in messages.
    extra: arguments that don't come from the config (ranks, sizes known at run time); they win over its keys.
    Nested mappings with a `_target_` are built first.
    Raises ValueError, in one line, for a missing or unregistered `_target_`, an unknown or a missing argument.
    """
    arguments = plain(config, path)
    if "_target_" not in arguments:
        raise ValueError(f"{path} has no _target_: give the path of the class to build")
    builder = find_target(arguments.pop("_target_"), path)
    for key, value in arguments.items():
        if isinstance(value, Mapping) and "_target_" in value:
            arguments[key] = from_config_dict(value, path=f"{path}.{key}")
    arguments |= extra
    check_arguments(builder, arguments, path)
    return builder(**arguments)


def find_target(target: str, path: str) -> Callable:
    """The registered builder of a `_target_`."""
    if target not in TARGETS:
        raise ValueError(f"{path}._target_={target!r} is not a class that configs may name{nearest(target, TARGETS)}")
    return TARGETS[target]


def check_arguments(builder: Callable, arguments: Mapping, path: str) -> None:
    """Raise ValueError for names that `builder` doesn't take, or needs and doesn't get."""
    parameters = inspect.signature(builder).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = {p.name for p in parameters}
    for key in arguments:
        if key not in known:
            raise ValueError(f"{path}.{key} is not an option of {builder.__name__}{nearest(key, known)}")
    for p in parameters:
        if p.default is p.empty and p.name not in arguments:
            raise ValueError(f"{path}.{p.name} is missing: {builder.__name__} needs it")


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?', or all that is known when nothing is near and the list is short."""
    known = sorted(known)
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known)}" if 0 < len(known) <= 60 else ""


def plain(config: Mapping, path: str) -> dict:
    """`config` as plain dicts and lists, references resolved, no value left '???'."""
    if not isinstance(config, Mapping):  # DictConfig is a Mapping too
        raise ValueError(f"{path} must be a mapping of options, not {config!r}")
    if not isinstance(config, DictConfig):
        config = OmegaConf.create(dict(config), flags={"allow_objects": True})
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from None


class Serialization:
    """Classes that are built from a config keep NeMo's classmethod for it."""

    @classmethod
    def from_config_dict(cls, config: Mapping, trainer: object = None) -> object:
        """With a `_target_`: the object it names (NeMo lets any class do this). Without: `cls(cfg=config, ...)`."""
        if "_target_" in config:
            return from_config_dict(config)
        if "trainer" in inspect.signature(cls).parameters:
            return cls(cfg=config, trainer=trainer)
        return cls(cfg=config)
