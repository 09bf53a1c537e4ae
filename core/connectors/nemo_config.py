"""A model's config in NeMo's words and back: class paths, and options that only we have."""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy

from omegaconf import DictConfig, OmegaConf

from core.targets import TARGETS

NEMO_VERSION = "3.0.0"  # of the NeMo that opens what we write
NEMO = "nemo."  # how its class paths begin
OWN = "own_options"  # the section of a saved config for what NeMo would refuse where we have it
OWN_OPTIONS: dict[Callable, dict[str, object]] = {}


def register_own_options(table: Mapping[Callable, Mapping[str, object]]) -> None:
    """Say which constructor arguments NeMo's class of that name doesn't take, with the value that is NeMo's way."""
    for builder, options in table.items():
        OWN_OPTIONS[builder] = dict(options)


def to_nemo(cfg: Mapping, target: str) -> tuple[DictConfig, list[str]]:
    """A model's config as NeMo writes it, resolved; and our options that NeMo goes without, as 'masking.min_masks=2'.

    target: the path of the model's class. NeMo refuses a constructor argument that it doesn't know: ours are left out
    at NeMo's way, and kept in a section of their own otherwise, which NeMo doesn't read and `from_nemo` puts back.
    """
    config = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else deepcopy(dict(cfg))
    own: dict = {}
    told = []
    for path, section in list(built_sections(config)):
        builder = TARGETS.get(section["_target_"])
        section["_target_"] = nemo_path(section["_target_"])
        for key, neutral in OWN_OPTIONS.get(builder, {}).items():
            if key in section and (value := section.pop(key)) != neutral:
                own.setdefault(path, {})[key] = value
                told.append(f"{path}.{key}={value}")
    if own:
        config[OWN] = own
    return OmegaConf.create(config | {"target": target, "nemo_version": NEMO_VERSION}), told


def from_nemo(config: DictConfig) -> DictConfig:
    """The config of a file with our own options back where they belong. The file's is left as it is."""
    config = OmegaConf.to_container(config)
    own = config.pop(OWN, None) or {}
    sections = dict(built_sections(config))
    for path, options in own.items() if isinstance(own, Mapping) else [(OWN, own)]:
        if path not in sections or not isinstance(options, Mapping):
            raise ValueError(f"the config's {OWN}.{path} isn't of a section that is there: {options!r:.80}")
        sections[path].update(options)
    return OmegaConf.create(config)


def take_own_options(config: dict, other: Mapping) -> None:
    """Put into a config the options of ours that it doesn't have and another config has."""
    for path, section in built_sections(config):
        theirs = OmegaConf.select(OmegaConf.create(dict(other)), path)
        for key in OWN_OPTIONS.get(TARGETS.get(section["_target_"]), {}):
            if theirs is not None and key in theirs:
                section.setdefault(key, theirs[key])


def built_sections(config: dict, path: str = "") -> Iterator[tuple[str, dict]]:
    """Every section that names a class, with its dotted path."""
    if isinstance(config.get("_target_"), str):
        yield path, config
    for key, value in config.items():
        if isinstance(value, dict):
            yield from built_sections(value, f"{path}.{key}" if path else str(key))


def nemo_path(target: str) -> str:
    """NeMo's path of a registered class; a path that is NeMo's or unknown stays as it is."""
    if target.startswith(NEMO) or target not in TARGETS:
        return target
    return next((p for p, b in TARGETS.items() if b is TARGETS[target] and p.startswith(NEMO)), target)
