"""A user's model config, NeMo's or ours, as a case that both sides can build."""

import inspect
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from core.config import plain
from core.connectors.initial_weights import INIT_FROM
from core.connectors.nemo_config import OWN, to_nemo
from core.optim.schedulers import get_scheduler
from core.targets import find_target
from models import ssl_models
from models.model_config import as_nemo_reads_it, check_model_config, config_of_file
from tools.parity.cases import DENOISE, PLAIN, Case
from tools.parity.side import DATA, changed, without_data
from utils.config_check import first_line, is_number, nearest
from utils.hydra_runner import compose_config

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "config" / "nest_fast-conformer.yaml"
SCHEDULE_STEPS = 1000  # of a schedule whose config says neither its own length nor the trainer's
WRITTEN_BY_NEMO = ("target", "nemo_version")
DRAWN = {  # what each section draws at random in training
    "encoder": ("dropout", "dropout_pre_encoder", "dropout_emb", "dropout_att", "stochastic_depth_drop_prob"),
    "preprocessor": ("dither", "nb_augmentation_prob"),
}
OF_OURS = "is an option of this project's own: NeMo goes without"
DIFFERS_ON_PURPOSE = {  # options of ours that make other numbers than NeMo's
    "masking.detach": "it lets gradients reach the subsampling, which NeMo 3.0.0 always cuts off: compare with true",
}


@dataclass(frozen=True)
class OwnConfig:
    """case: in NeMo's words, with all values as the user has them.  own_options, neutralised, notes: see `Job`."""

    case: Case
    own_options: dict[str, Any]
    neutralised: dict[str, Any]
    notes: tuple[str, ...] = ()


def own_config(
    config: Path | None, overrides: Sequence[str] = (), of_checkpoint: DictConfig | None = None
) -> OwnConfig:
    """What a yaml and overrides say, or a checkpoint's config where no yaml is given; else our default config.

    Raises ValueError, in one line, for a config that can't be right and for a wrong key of an override.
    """
    if config is None and of_checkpoint is not None:
        whole, name = composed_section(of_checkpoint, overrides), "the checkpoint's config"
    else:
        path = config or DEFAULT
        whole, name = composed(path, overrides), path.name
    refuse_start_weights(whole)
    section = model_section(whole, name)
    return in_nemos_words(*with_schedule_length(section, whole))


# from a yaml to the model's section


def composed(path: Path, overrides: Sequence[str]) -> DictConfig:
    """A whole config, with Hydra's defaults; or one of a model alone, as .nemo files hold it."""
    if not path.is_file():
        raise FileNotFoundError(f"--config {path} doesn't exist, or is no file")
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            raise ValueError(f"{override!r} is no change to the configuration: give key=value, or ~key to remove one")
    if path.suffix != ".yaml":
        remedy = "give it with --checkpoint" if path.suffix in (".nemo", ".ckpt", ".safetensors") else "rename it"
        raise ValueError(f"{path} is no config by its name, which must end in .yaml: {remedy}")
    try:
        written = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no yaml: {' '.join(str(error).split())}") from error
    if not OmegaConf.is_dict(written):
        raise ValueError(f"{path} is no mapping of options")
    if "encoder" in written and "model" not in written:
        return composed_section(config_of_file(of_its_own_keys(written, str(path)), str(path)), overrides)
    path = path.resolve()
    options = Namespace(config_path=str(path.parent), config_name=path.stem, config_dir=None, overrides=list(overrides))
    return compose_config(options, ROOT)


def of_its_own_keys(section: DictConfig, name: str) -> DictConfig:
    """A model's section with its references resolved, which may begin with `model.` or not."""
    bare = OmegaConf.to_container(section)
    try:
        return OmegaConf.create(OmegaConf.to_container(OmegaConf.create(bare | {"model": bare}), resolve=True)["model"])
    except OmegaConfBaseException as error:
        raise ValueError(f"{name}: {first_line(error)}") from None


def composed_section(section: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """A whole config around a model's section. Overrides begin with `model.`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(OmegaConf.to_yaml(OmegaConf.create({"model": section})), encoding="utf-8")
        return composed(path, overrides)


def refuse_start_weights(whole: DictConfig) -> None:
    for key in (*INIT_FROM, "model.restore_from"):
        value = OmegaConf.select(whole, key, default=None, throw_on_missing=False)
        if value is not None:
            raise ValueError(f"{key}={value} names weights to start from: give the file with --checkpoint instead")


def model_section(whole: DictConfig, name: str) -> dict:
    """The `model` section, resolved and checked. Data sections may leave values open ('???'); others may not."""
    if not OmegaConf.is_dict(whole.get("model")):
        raise ValueError(f"{name} has no `model` section{nearest('model', map(str, whole))}")
    data = {}
    with open_dict(whole):
        whole.model.pop("restore_from", None)
        for key in DATA:
            data[key] = data_section(whole, key)
            whole.model[key] = None
    section = plain(whole.model, "model")
    check_model_config(OmegaConf.create(section))
    return section | data


def data_section(whole: DictConfig, key: str) -> dict | None:
    """Its values may be '???'."""
    try:
        section = whole.model.get(key)
        return None if section is None else OmegaConf.to_container(section, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"model.{key}: {first_line(error)}") from None


def with_schedule_length(section: dict, whole: DictConfig) -> tuple[dict, list[str]]:
    """With `optim.sched.max_steps`, which both sides otherwise take from a trainer that is not there; and notes."""
    schedule = (section.get("optim") or {}).get("sched")
    if not schedule or (is_number(schedule.get("max_steps")) and schedule["max_steps"] > 0):
        return section, []
    if "max_steps" not in inspect.signature(get_scheduler(schedule.get("name"))).parameters:
        return section, []
    try:
        steps = OmegaConf.select(whole, "trainer.max_steps", default=None)
    except OmegaConfBaseException as error:
        raise ValueError(f"trainer.max_steps: {first_line(error)}") from None
    notes = []
    if not is_number(steps) or steps < 1:
        steps = SCHEDULE_STEPS
        notes = [f"the config leaves open how long the schedule is: {steps} steps are assumed"]
    return changed(section, {"optim.sched.max_steps": int(steps)}), notes


# from the model's section to a case


def in_nemos_words(section: dict, notes: list[str]) -> OwnConfig:
    class_name = class_of(section)
    is_post_conv = section.get("mask_position", "pre_conv") == "post_conv"
    data = {key: section.pop(key) for key in DATA}
    if is_post_conv:
        section = as_nemo_reads_it(OmegaConf.create(section))
    config = OmegaConf.to_container(to_nemo(section, class_name)[0])
    own = config.pop(OWN, {})
    own_options = {f"{path}.{key}": value for path, options in own.items() for key, value in options.items()}
    for key, why in DIFFERS_ON_PURPOSE.items():
        if key in own_options and is_post_conv:
            raise ValueError(f"model.{key}={own_options[key]} is an option of this project's own: {why}")
    notes = [*notes, *(f"model.{key}={value} {OF_OURS}" for key, value in own_options.items())]
    config = {key: value for key, value in config.items() if key not in WRITTEN_BY_NEMO} | data
    off = neutralised(config)
    if off:
        notes.append(f"off on both sides, since each draws at random in its own order: {', '.join(off)}")
    return OwnConfig(Case(f"models.ssl_models.{class_name}", config), own_options, off, tuple(notes))


def class_of(section: dict) -> str:
    """The model's class: the one that a file names, else that of NEST."""
    target = section.get("target") or DENOISE
    name = target.rpartition(".")[2]
    if name not in (DENOISE, PLAIN):
        raise ValueError(f"target={target!r} is not a model of this project, which has {DENOISE} and {PLAIN}")
    return name


def neutralised(config: dict) -> dict[str, float]:
    """What is drawn at random in training, by key, at the value that draws nothing."""
    values = {}
    for name, keys in DRAWN.items():
        section = config[name]
        known = inspect.signature(find_target(section["_target_"], f"model.{name}")).parameters
        values |= {f"{name}.{key}": 0.0 for key in keys if key in known and section.get(key, known[key].default)}
    return values


def build(own: OwnConfig) -> nn.Module:
    """Our model of it, without data. Raises ValueError, in one line, where model or optimizer can't be built."""
    config = OmegaConf.create(changed(without_data(own.case.config), own.own_options))
    model = getattr(ssl_models, own.case.class_path.rpartition(".")[2])(cfg=config)
    if config.get("optim") is not None:
        model.setup_optimization()
    return model
