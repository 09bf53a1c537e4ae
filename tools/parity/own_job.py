"""What a user has, config, checkpoint, audio, manifest, as a job for both sides."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor, nn

from core.connectors.initial_weights import Part, Weights, compare, load_matching, read_weights, some
from data.ssl_dataset import load_noise_manifest
from models.model_config import config_of_file
from tools.parity.aspects.data import without_infos
from tools.parity.cases import LEVELS, STEPS, make_audio
from tools.parity.data.reading import open_dataset
from tools.parity.data.scenes import user_section
from tools.parity.levels import is_before
from tools.parity.own_audio import own_audio
from tools.parity.own_config import DEFAULT, build, own_config
from tools.parity.records import Job, start_weights
from tools.parity.side import Side, without_data
from utils.config_check import nearest

ASPECTS = ("configuration", "parameters", "initial_weights", "masks", "computation")
LAST_WITHOUT_OPTIM = "batch_norm"


def own_job(
    config: Path | None = None,
    overrides: Sequence[str] = (),
    checkpoint: Path | None = None,
    audio: Sequence[Path] = (),
    *,
    noise: Path | None = None,
    manifest: Path | None = None,
    noise_manifest: Path | None = None,
    steps: int = STEPS,
    until: str = LEVELS[-1],
    aspects: Sequence[str] | None = None,
    name: str = "",
) -> Job:
    """The job of a config (yaml, and overrides as Hydra has them), a checkpoint's weights and some recordings.

    Without a config the checkpoint's own counts, without both our default one; without a checkpoint NeMo draws the
    weights; without audio the tool makes some. manifest, noise_manifest: for the aspect `data`. aspects: None for all
    that apply; files are left out where the computation is to end early.
    Raises ValueError or OSError, in one line, for what can't be used.
    """
    if until not in LEVELS:
        raise ValueError(f"--until {until} is not a level{nearest(until, LEVELS)}")
    if steps < 1:
        raise ValueError(f"--steps {steps} must be at least 1: end with --until batch_norm to make no steps")
    files = {"--checkpoint": checkpoint, "--manifest": manifest, "--noise-manifest": noise_manifest}
    for option, path in files.items():
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"{option} {path} doesn't exist, or is no file")
    weights = None if checkpoint is None else read_weights(checkpoint, needs_config=config is None)
    own = own_config(config, overrides, config_of(weights) if config is None and weights else None)
    model = build(own)  # refuses, by name, what NeMo would fail on somewhere
    notes = list(own.notes)
    config_of_model = own.case.config if manifest else without_data(own.case.config)
    inputs = make_audio(sample_rate=config_of_model["sample_rate"])
    if audio:
        inputs, about_audio = own_audio(audio, config_of_model["sample_rate"], noise)
        notes += about_audio
    if config_of_model.get("optim") is None and is_before(LAST_WITHOUT_OPTIM, until):
        until = LAST_WITHOUT_OPTIM
        notes.append("the config has no optim section, so no optimizer steps are compared")
    start = {}
    if weights is not None:
        start, about_weights = weights_for(model, weights)
        notes += about_weights
    job = Job(
        name=name or name_of(config, checkpoint),
        case=replace(own.case, config=config_of_model),
        aspects=aspects_for(until, manifest) if aspects is None else tuple(aspects),
        inputs=inputs,
        start=start,
        steps=steps,
        until=until,
        own_options=own.own_options,
        neutralised=own.neutralised,
        notes=tuple(notes),
        checkpoint=absolute(checkpoint),
        manifest=absolute(manifest),
        noise_manifest=absolute(noise_manifest),
    )
    refuse_unusable_manifests(job)
    return job


def aspects_for(until: str, manifest: Path | None) -> tuple[str, ...]:
    data = () if manifest is None else ("data",)
    files = () if is_before(until, LAST_WITHOUT_OPTIM) else ("files",)
    return ASPECTS + data + files


def config_of(weights: Weights) -> DictConfig:
    """The config that a checkpoint holds, without what no model reads."""
    if weights.config is None:
        raise ValueError(f"{weights.source} holds no config: give the model's with --config")
    return config_of_file(weights.config, weights.source)


def weights_for(model: nn.Module, weights: Weights) -> tuple[dict[str, Tensor], list[str]]:
    """All weights of the model, from the file, in the model's types, and notes of others there. Raises ValueError where
    some are missing, of another shape, or no numbers."""
    file = Part(weights.source)
    report = compare(model, weights.state_dict, file)
    missing = [key for key in report.missing if not key.startswith("preprocessor.")]
    shapes = [f"{name} {there} for {here}" for name, there, here in report.mismatched]
    for kind, names in (("missing", missing), ("of another shape or type", shapes)):
        if names:
            raise ValueError(
                f"--checkpoint {file} holds other weights than this config's model has: {len(names)} {kind}, the first "
                f"is {names[0]}; leave out --config and overrides for the checkpoint's own config, or give its sizes"
            )
    broken = [name for name in report.loaded if not weights.state_dict[name].isfinite().all()]
    if broken:
        raise ValueError(f"--checkpoint {file} holds NaN or infinity in {some(broken)}: give an earlier checkpoint")
    load_matching(model, weights.state_dict, file)
    left_out = f"{file} holds weights that the model doesn't have, left out: {some(report.unexpected)}"
    return start_weights(model), [left_out] if report.unexpected else []


def refuse_unusable_manifests(job: Job) -> None:
    """Open a user's manifests as our data sets do: what they raise, one line with its remedy, is a user's mistake."""
    side = Side("ours", job, Path())
    with without_infos():
        if job.manifest is not None:
            open_dataset(side, user_section(side))
        if job.noise_manifest is not None:
            load_noise_manifest(job.noise_manifest)


def absolute(path: Path | None) -> str | None:
    """The path for a process with another working directory."""
    return None if path is None else str(path.resolve())


def name_of(config: Path | None, checkpoint: Path | None) -> str:
    """A name that files can have."""
    return re.sub(r"[^\w.-]+", "_", (config or checkpoint or DEFAULT).stem)
