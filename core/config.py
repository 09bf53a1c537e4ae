"""Config sections as plain data, and their keys against what a function takes."""

import inspect
from collections.abc import Callable, Mapping

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from utils.config_check import nearest


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
