"""Models to files and back: `.nemo` archives and Lightning checkpoints, ours and NeMo's."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from core.connectors.initial_weights import (
    INIT_FROM,
    Part,
    Weights,
    compare,
    log_report,
    read_weights,
    say_averages,
    some,
)
from core.connectors.nemo_config import from_nemo, take_own_options, to_nemo
from core.connectors.nemo_file import read_nemo_config, read_nemo_weights, write_nemo
from core.connectors.size_limits import no_larger_than_file
from utils.config_check import as_yaml
from utils.logging import is_rank_zero, logger, warn_once

RUN_KEYS = ("train_ds", "validation_ds", "test_ds", "optim", "optim_param_groups")  # a run's own, whatever its model
NOT_A_PART = ("restore_from", *INIT_FROM, "target", "nemo_version")  # keys that say nothing of how a model is built


class Restorable(Protocol):
    """See `ModelPT`."""

    cfg: DictConfig
    nemo_paths: tuple[str, ...]

    @classmethod
    def config_of_file(cls, config: DictConfig, source: str) -> DictConfig: ...

    def config_to_save(self) -> DictConfig: ...

    def state_dict(self) -> dict[str, Tensor]: ...


# write


def saved_config(model: Restorable) -> tuple[DictConfig, list[str]]:
    """The config that goes into a file, in NeMo's words, and our options that NeMo goes without."""
    return to_nemo(model.config_to_save(), names_of(type(model))[0])


def save_nemo(model: Restorable, path: str | Path) -> None:
    """Write a model as one .nemo file, which NeMo opens too. In a run of several processes rank zero writes."""
    if not is_rank_zero():
        return
    path = Path(path).expanduser()
    config, told = saved_config(model)
    if told:
        warn_once(f"NeMo has no {', '.join(told)}: .nemo files keep it for us, and NeMo restores them without")
    write_nemo(path, config, {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()})


# read


def restore_nemo(
    calling: type[Restorable],
    path: str | Path,
    override_config: str | Path | Mapping | None = None,
    map_location: torch.device | str | None = None,
    strict: bool = True,
    return_config: bool = False,
    trainer: object = None,
) -> Restorable | DictConfig:
    """The model of a .nemo file; see `ModelPT.restore_from`."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} doesn't exist, or is no file")
    if path.suffix == ".ckpt":
        raise ValueError(f"{path} is a Lightning checkpoint by its name: load_from_checkpoint reads those")
    config = from_nemo(read_nemo_config(path)) if override_config is None else read_override(override_config)
    if return_config:
        return config
    if map_location is None:
        map_location = "cuda" if torch.cuda.is_available() else "cpu"
    weights = Weights(read_nemo_weights(path), config, str(path))
    if override_config is None:
        weights = replace(weights, config=checked_config(calling, weights))
    return restored(calling, weights, trainer, strict).to(map_location)


def read_override(override: str | Path | Mapping) -> DictConfig:
    """A config to use instead of the file's: a yaml file or a mapping, a whole config or its `model` section."""
    config = OmegaConf.load(override) if isinstance(override, str | Path) else OmegaConf.create(override)
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    return from_nemo(config.get("model", config))


def restore_lightning(
    calling: type[Restorable],
    path: str | Path,
    map_location: torch.device | str | None = None,
    hparams_file: str | Path | None = None,
    strict: bool = True,
    trainer: object = None,
) -> Restorable:
    """The model of a Lightning checkpoint; see `ModelPT.load_from_checkpoint`."""
    weights = read_weights(path)
    config = checked_config(calling, weights) if hparams_file is None else from_nemo(OmegaConf.load(hparams_file).cfg)
    return restored(calling, replace(weights, config=config), trainer, strict).to(map_location or "cpu")


def restore_for_run(calling: type[Restorable], cfg: DictConfig, trainer: object) -> Restorable:
    """The model of the file that `model.restore_from` names, for a run with the whole config `cfg`.

    Its architecture is the file's; data and optimizer are the run's, and so are options of ours of which the file says
    nothing. Where both speak of the architecture and differ, the file decides, and a warning says so.
    """
    if not Path(cfg.model.restore_from).expanduser().is_file():
        raise FileNotFoundError(f"model.restore_from={cfg.model.restore_from} doesn't exist, or is no file")
    weights = read_weights(cfg.model.restore_from)
    theirs = OmegaConf.to_container(checked_config(calling, weights), resolve=True)
    run = OmegaConf.create(OmegaConf.to_container(cfg))
    of_run = {key: run.model[key] for key in RUN_KEYS if key in run.model}
    of_file = {key: value for key, value in theirs.items() if key not in RUN_KEYS}
    if "optim" not in of_run and "optim" in theirs:
        of_file["optim"] = theirs["optim"]
    resolved = OmegaConf.to_container(cfg, resolve=True)["model"]
    take_own_options(of_file, resolved)
    overruled = list(differences({k: v for k, v in resolved.items() if k not in (*RUN_KEYS, *NOT_A_PART)}, of_file))
    logger.info(f"of {weights.source} is the model; of this run are {', '.join(of_run) or 'no sections of it'}")
    if overruled:
        logger.warning(f"{weights.source} decides where this run's config says otherwise: {some(overruled)}")
    run.model = of_run | of_file
    config = OmegaConf.create(
        OmegaConf.to_container(run, resolve=True)["model"]
    )  # ${model.encoder.d_model}: the file's
    return restored(calling, replace(weights, config=config), trainer, strict=True)


def compare_optimizers(checkpoint: Mapping, cfg: DictConfig) -> None:
    """What the run of a checkpoint and the run that goes on from it say of the optimizer: the checkpoint's is restored.

    Raises ValueError, in one line, for another optimizer, whose state can't be taken over.
    """
    options = checkpoint.get("hyper_parameters")
    there = options.get("cfg") if isinstance(options, Mapping) else None
    there = there.get("optim") if isinstance(there, Mapping) else None
    if not isinstance(there, Mapping) or cfg.get("optim") is None:
        return
    here = OmegaConf.to_container(cfg.optim)
    if str(there.get("name")).lower() != str(here.get("name")).lower():
        raise ValueError(
            f"model.optim.name={here.get('name')}, and the checkpoint is of a run with {there.get('name')}: give the "
            "run another folder (exp_manager.name) and start from its weights, init_from_ptl_ckpt=<the checkpoint>"
        )
    if other := [text for text in differences(here, there, "model.optim.") if ".max_steps" not in text]:
        logger.warning(f"the checkpoint's optimizer goes on: {some(other)}; init_from_ptl_ckpt takes only its weights")


def differences(first: Mapping, second: Mapping, path: str = "model.") -> Iterator[str]:
    """What `second` says otherwise than `first`, or doesn't say: 'model.encoder.d_model=48, not 512'."""
    for key, value in first.items():
        other = second.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            yield from differences(value, other, f"{path}{key}.")
        elif other != value:
            yield f"{path}{key}={as_yaml(other)}, not {as_yaml(value)}"


def checked_config(calling: type[Restorable], weights: Weights) -> DictConfig:
    """The config of a file, as far as its class takes it."""
    config, source = weights.config, weights.source
    if config is None:
        raise ValueError(f"{source} has no config of a model: init_from_* loads its weights alone")
    with config_errors(source):
        return class_for(calling, config.get("target"), source).config_of_file(config, source)


@contextmanager
def config_errors(source: str) -> Iterator[None]:
    """A value of a kind that no config of a user's has, in that of a file, is one line too."""
    try:
        yield
    except (TypeError, AttributeError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{source}: its config can't be a model's: {type(error).__name__}: {reason}") from error


def restored(calling: type[Restorable], weights: Weights, trainer: object, strict: bool) -> Restorable:
    """The model of a config, with weights."""
    source = weights.source
    with config_errors(source), no_larger_than_file(weights.config, weights.state_dict, source):
        model = class_for(calling, weights.config.get("target"), source)(cfg=weights.config, trainer=trainer)
    say_averages(weights)
    load_whole(model, weights.state_dict, strict, source)
    logger.info(f"{type(model).__name__} restored from {source}")
    return model


def load_whole(model: Restorable, state_dict: dict[str, Tensor], strict: bool, source: str) -> None:
    """Load all of a state dict. Raises ValueError where it isn't the model's; strict=False only for shapes."""
    report = compare(model, state_dict, Part(source))
    if report.mismatched or (strict and not report.is_whole):
        raise ValueError(f"{source}: the weights don't fit the config: {report.problem()}")
    model.load_state_dict(state_dict, strict=strict)
    if not report.is_whole:
        log_report(report)


# which class


def class_for(calling: type[Restorable], target: str | None, source: str) -> type[Restorable]:
    """The class that a config's `target` means to `calling`: NeMo's rule.

    A subclass of `calling` is built; for `calling` itself or one of its parents `calling` is. Without a target too.
    Raises ValueError for any other model.
    """
    if target is None:
        return calling
    for cls in family(calling):
        if target in names_of(cls):
            return cls if issubclass(cls, calling) else calling
    raise ValueError(
        f"{source} holds a {target}, and not a {calling.__name__}: to start from its encoder, build a model and set "
        f"init_from_nemo_model={{file: {{path: {source}, include: [encoder]}}}}"
    )


def family(cls: type[Restorable]) -> Iterator[type[Restorable]]:
    """A class, its parents that are models, its subclasses; the nearest first."""
    yield from (parent for parent in cls.__mro__ if hasattr(parent, "nemo_paths"))
    heirs = cls.__subclasses__()
    while heirs:
        yield from heirs
        heirs = [heir for cls in heirs for heir in cls.__subclasses__()]


def names_of(cls: type[Restorable]) -> tuple[str, ...]:
    """Every path that means the class; the first is the one that is written. A subclass without its own inherits."""
    return (*cls.nemo_paths, f"{cls.__module__}.{cls.__qualname__}")
