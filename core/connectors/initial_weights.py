"""Start from another model's weights: read them from any of the usual files, load what fits, say what didn't."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from core.connectors.nemo_config import from_nemo
from core.connectors.nemo_file import read_nemo_config, read_nemo_weights
from utils.checkpoint_files.checkpoint_file import load_checkpoint
from utils.checkpoint_files.config_references import resolved
from utils.checkpoint_files.tensor_digest import METADATA_KEY, digest
from utils.config_check import refuse_unknown_keys
from utils.logging import logger
from utils.training.ema import averaged_state_dict

INIT_FROM = ("init_from_nemo_model", "init_from_pretrained_model", "init_from_ptl_ckpt")  # config keys, NeMo's
# NeMo builds the model of the file, and `init_strict: false` lets its weights differ from its config; nothing is built
# here, so that either value is followed
INIT_KEYS = (*INIT_FROM, "init_strict")
FILE_KEYS = ("path", "name")  # NeMo's `name` is of a published model; here it must be a file too
SHOWN = 8  # names that a report spells out of each kind, where a message must stay short


@dataclass(frozen=True)
class Weights:
    """A state dict on the CPU, the config of the model it is of, where the file says, and the file.

    averaged: the same with moving averages in place of the weights as trained, of a run that kept some. step: of the
    optimizer, 0 where the file doesn't say.
    """

    state_dict: dict[str, Tensor]
    config: DictConfig | None
    source: str
    averaged: dict[str, Tensor] | None = None
    step: int = 0

    def of(self, kind: str) -> "Weights":
        """The weights as 'trained', or their moving averages, 'ema'. Raises ValueError where the file has none."""
        if kind == "trained":
            return self
        if kind != "ema":
            raise ValueError(f"weights={kind!r} must be 'trained' or 'ema'")
        if self.averaged is None:
            raise ValueError(f"{self.source} holds no averaged weights: take those as trained")
        return replace(self, state_dict=self.averaged)


@dataclass(frozen=True)
class Part:
    """A file to start from, and which of its names to load.

    include: only names that contain one of these; None: all. exclude: no names that contain one of these. key: of the
    config that names it, for messages.
    """

    path: str
    include: list[str] | None = None
    exclude: list[str] | None = None
    key: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.key}={self.path}" if self.key else self.path

    def chooses(self, name: str) -> bool:
        """NeMo's rule: a part of the name decides, and `exclude` over `include`."""
        wanted = self.include is None or any(pattern in name for pattern in self.include)
        return wanted and not any(pattern in name for pattern in self.exclude or ())


@dataclass
class LoadReport:
    """What became of a file's weights: names of the model's or the file's state dict.

    missing: the model has it and the file doesn't. unexpected: the contrary. mismatched: name, shape or type in the
    file, and in the model. left_out: what `include` and `exclude` kept away from either side. frozen_replaced and
    frozen_kept: parameters that no training changes, now the file's instead of the model's, or the model's still.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    frozen_replaced: list[str] = field(default_factory=list)
    frozen_kept: list[str] = field(default_factory=list)
    total: int = 0

    @property
    def is_whole(self) -> bool:
        """Every tensor of the file went in, and every one of the model came from it."""
        return not (self.missing or self.unexpected or self.mismatched or self.left_out)

    def __str__(self) -> str:
        forms = [f"{name} ({there} there, {here} here)" for name, there, here in self.mismatched]
        kinds = {
            "missing in the file, so as initialized": self.missing,
            "not in this model, so not loaded": self.unexpected,
            "of another shape or type": forms,
            "left out by include and exclude": self.left_out,
            "frozen, and now the file's": self.frozen_replaced,
            "frozen, and not the file's": self.frozen_kept,
        }
        lines = [f"loaded {len(self.loaded)} of {self.total} tensors of the model from {self.source}"]
        return "\n".join(lines + [f"  {kind}: {len(names)}: {some(names)}" for kind, names in kinds.items() if names])

    def problem(self) -> str:
        """What differs, in one line."""
        forms = [f"{name} {there} for {here}" for name, there, here in self.mismatched]
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "of another shape or type": forms}
        return "; ".join(f"{kind}: {some(names)}" for kind, names in kinds.items() if names)


def some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# files


def read_weights(path: str | Path, *, needs_config: bool = True) -> Weights:
    """The weights of a .nemo archive, a Lightning checkpoint (.ckpt) or a .safetensors file.

    needs_config: False reads a checkpoint also without its config, where that asks for more than it holds.
    Raises FileNotFoundError; ValueError, in one line, for a file of no weights, a damaged and a hostile one.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} doesn't exist, or is no file")
    if path.suffix not in READERS:
        raise ValueError(f"{path}: weights are read from {', '.join(READERS)}, by the end of the file's name")
    return READERS[path.suffix](path) if needs_config else WEIGHT_READERS[path.suffix](path)


def read_nemo(path: Path) -> Weights:
    return Weights(read_nemo_weights(path), from_nemo(read_nemo_config(path)), str(path))


def read_lightning(path: Path, needs_config: bool = True) -> Weights:
    """A Lightning checkpoint, ours or NeMo's; or a bare state dict."""
    return of_checkpoint(load_checkpoint(path, needs_configs=needs_config), path)


def of_checkpoint(checkpoint: dict, path: Path) -> Weights:
    """The weights of what `load_checkpoint` read from `path`. Raises ValueError, in one line, where it holds none."""
    if is_state_dict(checkpoint):
        return Weights(dict(checkpoint), None, str(path))
    state_dict, options = checkpoint.get("state_dict"), checkpoint.get("hyper_parameters") or {}
    if not is_state_dict(state_dict):
        raise ValueError(f"{path} holds no weights: neither a Lightning checkpoint nor a state dict")
    if not isinstance(options, Mapping):
        raise ValueError(f"{path} has hyper_parameters that are no mapping of options")
    try:
        averaged = averaged_state_dict(checkpoint)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} has moving averages that aren't of its weights: {error!r:.80}") from error
    step = checkpoint.get("global_step", 0)
    config = read_config(options.get("cfg"), path)
    return Weights(dict(state_dict), config, str(path), averaged, step if type(step) is int else 0)


def is_state_dict(content: object) -> bool:
    if not isinstance(content, Mapping) or not content:
        return False
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def read_config(cfg: object, path: Path) -> DictConfig | None:
    """A model's config from plain data; its references may be to its own keys only."""
    if cfg is None:
        return None
    if not isinstance(cfg, dict):
        raise ValueError(f"{path} has a config that is no mapping of options")
    return from_nemo(OmegaConf.create(resolved(cfg, f"{path}: config")))


def read_safetensors(path: Path) -> Weights:
    """Tensors under their names; the config, if the file has it, is JSON under `config` of the file's metadata.

    Files with a config are ours and have a checksum there, too. Others have none: a damaged one may pass for whole.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            state_dict = {name: file.get_tensor(name) for name in names}
        config = json.loads(metadata.get("config", "null"))
    except (SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} can't be read: {str(error).partition(chr(10))[0]}") from error
    is_ours = not metadata.keys().isdisjoint(("config", METADATA_KEY))
    if is_ours and metadata.get(METADATA_KEY) != digest(state_dict, metadata.get("config", "")):
        raise ValueError(f"{path} is damaged: its tensors and its config aren't as they were written")
    return Weights(state_dict, read_config(config, path), str(path))


READERS = {".nemo": read_nemo, ".ckpt": read_lightning, ".safetensors": read_safetensors}
WEIGHT_READERS = READERS | {".ckpt": partial(read_lightning, needs_config=False)}  # for weights alone


# what a config asks for


def initial_parts(cfg: Mapping) -> list[Part]:
    """The files that one of INIT_FROM names, in order: none without any.

    A path; or, as in NeMo, {some_name: {path: file, include: [encoder], exclude: [encoder.layers.0.]}, ...}, where
    init_from_pretrained_model says `name` for `path`. One such section may also stand without a name around it.
    Raises ValueError, in one line, for more than one key, and for a section that says something else.
    """
    given = [key for key in INIT_FROM if cfg.get(key) is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are given: a model starts from one of them, so set the others to null")
    if not given:
        return []
    value = cfg[given[0]]
    if isinstance(value, str | Path):
        return [Part(check_file(value, given[0]), key=given[0])]
    if not isinstance(value, Mapping):
        raise ValueError(f"{given[0]}={value} must be the path of a file, or {{file: {{path: ..., include: [...]}}}}")
    sections = {"": value} if any(isinstance(value.get(key), str) for key in FILE_KEYS) else value
    return [read_part(section, f"{given[0]}.{name}".rstrip(".")) for name, section in sections.items()]


def read_part(section: Mapping, path: str) -> Part:
    """What a section of the config says. Raises ValueError, in one line, for one that isn't such a section."""
    if not isinstance(section, Mapping) or not any(section.get(key) for key in FILE_KEYS):
        raise ValueError(f"{path}={section} must be a mapping with a path, and include and exclude if need be")
    refuse_unknown_keys(section, (*FILE_KEYS, "include", "exclude"), path)
    patterns = {key: section.get(key) for key in ("include", "exclude")}
    for key, value in patterns.items():
        if value is not None and (isinstance(value, str) or not all(isinstance(p, str) for p in value)):
            raise ValueError(f"{path}.{key}={value} must be a list of parts of names, such as [encoder]")
    file = next(section[key] for key in FILE_KEYS if section.get(key))
    chosen = {key: None if value is None else list(value) for key, value in patterns.items()}
    return Part(check_file(file, path), **chosen, key=path)


def check_file(file: str | Path, path: str) -> str:
    if not Path(file).expanduser().is_file():
        remedy = "" if Path(file).suffix in READERS else ": download the model (.nemo) and give its path"
        raise ValueError(f"{path}={file} is no file here{remedy}")
    return str(file)


def start_from(model: nn.Module, cfg: Mapping, resumed_from: str | None = None) -> list[LoadReport]:
    """Load what one of INIT_FROM in `cfg` names, and log what became of it.

    resumed_from: the checkpoint that a run goes on from; then nothing is read, since all weights are the checkpoint's.
    """
    parts = initial_parts(cfg)
    if parts and resumed_from is not None:
        logger.info(f"weights are those of {resumed_from}: {', '.join(p.path for p in parts)} is not read")
        return []
    reports = []
    for part in parts:
        weights = read_weights(part.path, needs_config=False)
        say_averages(weights)
        reports.append(load_matching(model, weights.state_dict, part))
        log_report(reports[-1])
    return reports


# loading


def compare(model: nn.Module, state_dict: Mapping[str, Tensor], part: Part) -> LoadReport:
    """What `load_matching` would load, without loading it."""
    ours = model.state_dict()
    report = LoadReport(part.path, total=len(ours))
    for name in [*state_dict, *(name for name in ours if name not in state_dict)]:
        if not part.chooses(name):
            report.left_out.append(name)
        elif name not in ours:
            report.unexpected.append(name)
        elif name not in state_dict:
            report.missing.append(name)
        elif state_dict[name].shape != ours[name].shape:
            report.mismatched.append((name, str(list(state_dict[name].shape)), str(list(ours[name].shape))))
        elif not holds(ours[name].dtype, state_dict[name].dtype):
            report.mismatched.append((name, str(state_dict[name].dtype), str(ours[name].dtype)))
        else:
            report.loaded.append(name)
    loaded = set(report.loaded)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            if name not in loaded:
                report.frozen_kept.append(name)
            elif not torch.equal(parameter.detach().cpu(), state_dict[name].to(parameter.dtype).cpu()):
                report.frozen_replaced.append(name)
    return report


def holds(ours: torch.dtype, theirs: torch.dtype) -> bool:
    """Whether a tensor may become the model's: floats of any precision may, integers as floats may not.

    torch would convert anything to anything, without a word.
    """
    if theirs.is_floating_point and ours.is_floating_point:
        return True
    kinds = {(dtype.is_floating_point, dtype.is_complex, dtype == torch.bool) for dtype in (ours, theirs)}
    return theirs == ours or (len(kinds) == 1 and theirs.itemsize < ours.itemsize)


def load_matching(model: nn.Module, state_dict: Mapping[str, Tensor], part: Part) -> LoadReport:
    """Load the tensors whose names `model` has too and `part` chooses; say what became of all of them.

    Raises ValueError, in one line, for a tensor of another shape or type, and when nothing fits; the model is then
    unchanged.
    """
    for pattern in part.include or ():
        if not any(pattern in name for name in state_dict):
            key = f"{part.key}.include".lstrip(".")
            raise ValueError(f"{key}: {pattern!r} is in no name of {part.path}, such as {some(sorted(state_dict)[:3])}")
    report = compare(model, state_dict, part)
    if report.mismatched:
        raise ValueError(
            f"{part} doesn't fit: {report.problem()}; give the model the sizes of the file, or exclude these names"
        )
    if not report.loaded:
        raise ValueError(f"nothing of {part} fits this model: {report.problem() or 'include and exclude leave none'}")
    model.load_state_dict({name: state_dict[name] for name in report.loaded}, strict=False)
    return report


def log_report(report: LoadReport) -> None:
    """A file that fits in part only is worth a warning, unless the config asked for a part."""
    partial = (report.missing or report.unexpected) and not report.left_out
    (logger.warning if partial else logger.info)(str(report))


def say_averages(weights: Weights) -> None:
    """A file with averages is read for its weights as trained, which a user may not expect."""
    if weights.averaged is not None:
        logger.info(
            f"{weights.source} holds weights as trained, which are taken, and averaged ones (exp_manager.ema): for "
            f"those run tools/convert_checkpoint.py {weights.source} averaged.nemo --weights ema, and take that file"
        )
