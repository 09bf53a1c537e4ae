"""Encoders as folders for Hugging Face's transformers (ParakeetEncoder), and back.

A folder holds config.json, model.safetensors and preprocessor_config.json (ParakeetFeatureExtractor). Those of whole
recognisers, such as nvidia/parakeet-ctc-1.1b, are read too: their encoder.
"""

import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from core.connectors.initial_weights import read_weights
from core.connectors.save_restore import load_whole
from parts.lengths import is_padding
from tools.conversion.parakeet_config import (
    from_extractor,
    from_parakeet_config,
    tell_what_is_left_out,
    to_extractor,
    to_parakeet_config,
)
from tools.conversion.self_check import FEATURES, STATES, Output, Speech, cut
from tools.conversion.speech_encoder import SpeechEncoder, encoder_of
from utils.logging import warn_once

if TYPE_CHECKING:
    from transformers import ParakeetEncoder, ParakeetFeatureExtractor

CONFIG, EXTRACTOR, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
WEIGHTS, SHARDS = "model.safetensors", "model.safetensors.index.json"
ATTENTIONS = ("eager", "sdpa")

WEIGHT_NAMES = {  # parts of names: ours, which are NeMo's, and theirs
    "pre_encode.conv.": "subsampling.layers.",
    "pre_encode.out.": "subsampling.linear.",
    ".conv.batch_norm.": ".conv.norm.",
    ".self_attn.pos_bias_u": ".self_attn.bias_u",
    ".self_attn.pos_bias_v": ".self_attn.bias_v",
    ".self_attn.linear_q.": ".self_attn.q_proj.",
    ".self_attn.linear_k.": ".self_attn.k_proj.",
    ".self_attn.linear_v.": ".self_attn.v_proj.",
    ".self_attn.linear_out.": ".self_attn.o_proj.",
    ".self_attn.linear_pos.": ".self_attn.relative_k_proj.",
}


def check_installed() -> None:
    """Raise ImportError, with what to type, unless transformers is here and has ParakeetEncoder."""
    if importlib.util.find_spec("transformers") is None:
        raise ImportError("Hugging Face folders need transformers: pip install -r requirements-convert.txt")
    if importlib.util.find_spec("transformers.models.parakeet") is None:
        raise ImportError(
            f"transformers {version('transformers')} has no ParakeetEncoder, 4.57 is the first that has: "
            "pip install -U -r requirements-convert.txt"
        )


# write


def write_folder(model: nn.Module, folder: Path) -> None:
    """Write a model's encoder and its features for `transformers`.

    Raises ValueError, naming the option, for what ParakeetEncoder or its feature extractor can't be.
    """
    from transformers import ParakeetEncoder

    model = encoder_of(model)
    extractor = to_extractor(model)
    parakeet = ParakeetEncoder(to_parakeet_config(model))
    state = {renamed(name, WEIGHT_NAMES): tensor for name, tensor in model.encoder.state_dict().items()}
    load_whole(parakeet, state, True, "ParakeetEncoder")
    tell_what_is_left_out(model.cfg)
    with quiet():
        parakeet.save_pretrained(folder)
        extractor.save_pretrained(folder)


def renamed(name: str, table: Mapping[str, str]) -> str:
    for old, new in table.items():
        name = name.replace(old, new)
    return name


# read


def read_folder(folder: Path) -> SpeechEncoder:
    """The encoder of a folder. Nothing is downloaded, and no code or pickle of the folder is run.

    Raises ValueError or FileNotFoundError, in one line, for a folder of something else.
    """
    config = read_json(folder / CONFIG)
    cfg = {
        "preprocessor": from_extractor(extractor_section(folder), str(folder)),
        "encoder": from_parakeet_config(config.get("encoder_config") or config, str(folder / CONFIG)),
    }
    model = SpeechEncoder(OmegaConf.create(cfg))
    state = read_tensors(folder)
    if any(name.startswith("encoder.") for name in state):
        state = {name.removeprefix("encoder."): x for name, x in state.items() if name.startswith("encoder.")}
    backwards = {theirs: ours for ours, theirs in WEIGHT_NAMES.items()}
    load_whole(model.encoder, {renamed(name, backwards): x for name, x in state.items()}, True, str(folder))
    return model


def read_json(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, and every Hugging Face folder has it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping, not a {type(content).__name__}")
    return content


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, of one file or of several shards."""
    names = {WEIGHTS}
    if not (folder / WEIGHTS).is_file() and (folder / SHARDS).is_file():
        names = set(read_json(folder / SHARDS).get("weight_map", {}).values())
    state = {}
    for name in sorted(names):
        path = folder / Path(name).name  # a shard lies beside its index
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: only safetensors are read here, no pickles")
        state |= read_weights(path).state_dict
    return state


def extractor_section(folder: Path) -> dict:
    """What preprocessor_config.json says; transformers 5 may keep it inside processor_config.json."""
    if (folder / EXTRACTOR).is_file():
        return read_json(folder / EXTRACTOR)
    if (folder / PROCESSOR).is_file() and "feature_extractor" in (whole := read_json(folder / PROCESSOR)):
        return whole["feature_extractor"]
    raise FileNotFoundError(f"{folder / EXTRACTOR} is missing: it says from which features the encoder was trained")


# run


@torch.inference_mode()
def run_folder(folder: Path, speech: Speech) -> list[Output]:
    """Features and, under each attention implementation, encoder states, as transformers computes them."""
    batch = load_extractor(folder)(speech.utterances(), sampling_rate=speech.sample_rate, return_tensors="pt")
    outputs = [Output(FEATURES, FEATURES, cut(batch["input_features"], batch["attention_mask"].sum(1)))]
    features = speech.features.transpose(1, 2)  # (B, T, F)
    for attention in ATTENTIONS:
        model, how = load_parakeet(folder, attention), attention
        states = cut(encode(model, features, speech.frames), speech.steps)
        if any(x.isnan().any() for x in states):
            warn_once(
                f"transformers {version('transformers')}: attn_implementation={attention!r} gives NaN for a ragged "
                "batch, a defect of older versions; each utterance is checked by itself: use another implementation"
            )
            alone = [encode(model, row[None, :n], n[None]) for row, n in zip(features, speech.frames, strict=True)]
            states, how = [row for batch in alone for row in batch], f"{attention}, one by one"
        outputs.append(Output(STATES, f"{STATES} ({how})", states))
    return outputs


def encode(model: "ParakeetEncoder", features: Tensor, frames: Tensor) -> Tensor:
    """features (B, T, F), frames (B,) -> states (B, S, D)."""
    mask = ~is_padding(frames, features.size(1))
    return model(input_features=features, attention_mask=mask).last_hidden_state


def load_parakeet(folder: Path, attention: str) -> "ParakeetEncoder":
    """The encoder as a user of transformers gets it. Raises ValueError if a weight of it isn't in the folder."""
    from transformers import ParakeetEncoder

    with quiet():
        model, told = ParakeetEncoder.from_pretrained(
            folder, attn_implementation=attention, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    if told["missing_keys"]:
        raise ValueError(f"{folder}: transformers finds no {', '.join(sorted(told['missing_keys'])[:3])}")
    return model.float().eval()


def load_extractor(folder: Path) -> "ParakeetFeatureExtractor":
    from transformers import ParakeetFeatureExtractor

    return ParakeetFeatureExtractor(**extractor_section(folder))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and notes of transformers, which it writes for files of any size; errors are raised."""
    log = importlib.import_module("transformers.utils.logging")
    verbosity, has_bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if has_bars:
            log.enable_progress_bar()
