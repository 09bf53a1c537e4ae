"""Config to object, through the table of what may be built (`core.targets`)."""

import inspect
from collections.abc import Mapping

from core.config import check_arguments, plain
from core.targets import find_target


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
