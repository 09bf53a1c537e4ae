"""Config to object, through a table of what may be built: a config from a stranger names no other code.

`core` knows no class by path; packages that own classes register them with `register_targets`.
"""

import inspect
from collections.abc import Callable, Mapping

from core.config import check_arguments, plain
from utils.config_check import nearest

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
    try:
        return builder(**arguments)
    except ValueError as error:  # torch's too: raised from here, it counts as the user's
        raise ValueError(str(error)) from error
    except (TypeError, ArithmeticError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: {builder.__name__} can't be built with these values: {reason}") from error


def find_target(target: str, path: str) -> Callable:
    """The registered builder of a `_target_`."""
    if target not in TARGETS:
        raise ValueError(f"{path}._target_={target!r} is not a class that configs may name{nearest(target, TARGETS)}")
    return TARGETS[target]


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
