"""The formats of models as a table: how each is read, written and run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lightning
from omegaconf import OmegaConf
from torch import nn

from core.connectors.initial_weights import read_weights
from core.connectors.save_restore import save_nemo, saved_config
from tools.conversion import hugging_face, onnx_file, safetensors_file
from tools.conversion.encoder_file import encoder_config, save_encoder
from tools.conversion.self_check import FEATURES, LOG_PROBS, STATES, WEIGHTS, Output, Speech, cut, run_model
from tools.conversion.speech_encoder import SpeechEncoder, build_model
from utils.checkpoint_files.checkpoint_file import save_checkpoint
from utils.logging import logger

EXACT = {FEATURES: 0.0, STATES: 0.0, LOG_PROBS: 0.0, WEIGHTS: 0.0}
FOLDER = "folder"


def needs_nothing() -> None:
    """Formats that requirements.txt is enough for."""


@dataclass(frozen=True)
class Format:
    """read: None for what can only be written. run: the written file, on speech. tolerances: largest differences.

    holds_whole_models: not just encoders. check_installed: raises ImportError, with what to type.
    """

    title: str
    write: Callable[[nn.Module, Path], None]
    run: Callable[[Path, Speech], list[Output]]
    tolerances: Mapping[str, float]
    read: Callable[[Path], nn.Module] | None = None
    holds_whole_models: bool = True
    check_installed: Callable[[], None] = needs_nothing


# ours: .ckpt, .nemo, .safetensors


def read_file(path: Path, kind: str = "trained") -> nn.Module:
    """The model of a file with its weights as 'trained', or with the averages of its run, 'ema'.

    Averages that are there and not taken are mentioned.
    """
    weights = read_weights(path)
    if kind == "trained" and weights.averaged is not None:
        logger.info(f"{path}: its weights as trained are taken; for the averages that it also has: --weights ema")
    return build_model(weights.of(kind))


def run_file(path: Path, speech: Speech) -> list[Output]:
    return run_model(read_file(path), speech)


def config_of(model: nn.Module) -> dict:
    """The config that goes into a file, as plain data and in NeMo's words."""
    config = encoder_config(model.cfg) if isinstance(model, SpeechEncoder) else saved_config(model)[0]
    return OmegaConf.to_container(config)


def write_lightning(model: nn.Module, path: Path) -> None:
    """A checkpoint of weights and config: `load_from_checkpoint` and init_from_ptl_ckpt read it. No run resumes it."""
    content = {
        "state_dict": model.state_dict(),
        "hyper_parameters": {"cfg": config_of(model)},
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 0,
        "global_step": 0,
    }
    save_checkpoint(content, path)


def write_nemo_file(model: nn.Module, path: Path) -> None:
    (save_encoder if isinstance(model, SpeechEncoder) else save_nemo)(model, path)


def write_safetensors(model: nn.Module, path: Path) -> None:
    safetensors_file.write_safetensors(config_of(model), model.state_dict(), path)


# ONNX


def run_onnx(path: Path, speech: Speech, *, with_preprocessor: bool) -> list[Output]:
    inputs = (speech.audio, speech.audio_lengths) if with_preprocessor else (speech.features, speech.frames)
    states, steps = onnx_file.run_onnx(path, *inputs)
    return [Output(STATES, STATES, cut(states.transpose(1, 2), steps))]


def onnx(title: str, with_preprocessor: bool) -> Format:
    """The format of files that take waveforms, with_preprocessor, or features."""
    return Format(
        title=title,
        write=partial(onnx_file.write_onnx, with_preprocessor=with_preprocessor),
        run=partial(run_onnx, with_preprocessor=with_preprocessor),
        tolerances={STATES: 1e-4},
        holds_whole_models=False,
        check_installed=onnx_file.check_installed,
    )


# the table

FORMATS = {  # the end of a name
    ".ckpt": Format("Lightning checkpoint", write_lightning, run_file, EXACT, read_file),
    ".nemo": Format("NeMo archive", write_nemo_file, run_file, EXACT, read_file),
    ".safetensors": Format(
        "safetensors with the config in the metadata", write_safetensors, run_file, EXACT, read_file
    ),
    ".onnx": onnx("ONNX encoder, from features", with_preprocessor=False),
    FOLDER: Format(
        title="Hugging Face ParakeetEncoder",
        write=hugging_face.write_folder,
        run=hugging_face.run_folder,
        tolerances={FEATURES: 1e-4, STATES: 1e-5},
        read=hugging_face.read_folder,
        holds_whole_models=False,
        check_installed=hugging_face.check_installed,
    ),
}
ONNX_WITH_PREPROCESSOR = onnx("ONNX encoder, from the waveform", with_preprocessor=True)


def kind_of(name: str, *, is_input: bool = False) -> str:
    """The key of a path in FORMATS: its suffix; FOLDER for a folder, and for a name that is to become one."""
    path = Path(name)
    if path.is_dir() or (not is_input and (name.endswith(("/", "\\")) or not path.suffix)):
        return FOLDER
    if is_input and not path.exists():
        raise FileNotFoundError(f"{path} doesn't exist")
    if path.suffix not in FORMATS:
        known = ", ".join(key for key in FORMATS if key != FOLDER)
        folder = "" if is_input else f"; for a Hugging Face folder of this name write {name}/"
        raise ValueError(f"{name}: the end of a name tells the format, one of {known}{folder}")
    return path.suffix
