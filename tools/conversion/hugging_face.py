"""Encoders as folders for Hugging Face's transformers (ParakeetEncoder), and back.

A folder holds config.json, model.safetensors and preprocessor_config.json (ParakeetFeatureExtractor). Those of whole
recognisers, such as nvidia/parakeet-ctc-1.1b, are read too: their encoder.
"""

import importlib
import importlib.util
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from core.connectors.initial_weights import Weights, read_weights
from core.connectors.save_restore import load_whole
from parts.lengths import is_padding
from tools.conversion.parakeet_config import (
    extractor,
    from_extractor,
    from_parakeet_config,
    parakeet_config,
    tell_what_is_left_out,
    to_extractor,
    to_parakeet_config,
)
from tools.conversion.self_check import FEATURES, STATES, Output, Speech, cut
from tools.conversion.speech_encoder import SpeechEncoder, build_encoder, encoder_of
from tools.conversion.transformers_package import transformers
from utils.logging import warn_once

if TYPE_CHECKING:
    from transformers import ParakeetEncoder

CONFIG, EXTRACTOR, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
WEIGHTS, SHARDS = "model.safetensors", "model.safetensors.index.json"
ATTENTIONS = ("eager", "sdpa")
LARGEST_JSON_BYTES = 2**26

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
    ParakeetEncoder = transformers().ParakeetEncoder

    model = encoder_of(model)
    features = to_extractor(model)
    parakeet = ParakeetEncoder(to_parakeet_config(model))
    state = {renamed(name, WEIGHT_NAMES): tensor for name, tensor in model.encoder.state_dict().items()}
    load_whole(parakeet, state, True, "ParakeetEncoder")
    tell_what_is_left_out(model.cfg)
    with quiet():
        parakeet.save_pretrained(folder)
        features.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / CONFIG, weights)  # safetensors lets nobody else read what it writes


def renamed(name: str, table: Mapping[str, str]) -> str:
    for old, new in table.items():
        name = name.replace(old, new)
    return name


# read


def read_folder(folder: Path) -> SpeechEncoder:
    """The encoder of a folder. Nothing is downloaded, and no code or pickle of the folder is run.

    Raises ValueError or FileNotFoundError, in one line, for a folder of something else.
    """
    encoder = from_parakeet_config(*encoder_section(folder))
    preprocessor = from_extractor(*extractor_section(folder))
    state = read_tensors(folder)
    if any(name.startswith("encoder.") for name in state):
        state = {name.removeprefix("encoder."): x for name, x in state.items() if name.startswith("encoder.")}
    backwards = {theirs: ours for ours, theirs in WEIGHT_NAMES.items()}
    state = {f"encoder.{renamed(name, backwards)}": x for name, x in state.items()}
    config = OmegaConf.create({"preprocessor": preprocessor, "encoder": encoder})
    return build_encoder(Weights(state, config, str(folder)))


def read_json(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, and every Hugging Face folder has it; of a run give a .ckpt")
    if path.stat().st_size > LARGEST_JSON_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes: no JSON file of a model has so many")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping, not a {type(content).__name__}")
    return content


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, of one file or of several shards."""
    names = {WEIGHTS}
    if not (folder / WEIGHTS).is_file() and (folder / SHARDS).is_file():
        names = shard_names(folder / SHARDS)
    state = {}
    for name in sorted(names):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: only safetensors are read here, no pickles")
        state |= read_weights(path).state_dict
    return state


def shard_names(index: Path) -> set[str]:
    """The files that an index names. A shard lies beside its index, wherever a name points to."""
    shards = read_json(index).get("weight_map")
    names = list(shards.values()) if isinstance(shards, dict) else []
    if not names or not all(isinstance(n, str) and n == Path(n).name and n.endswith(".safetensors") for n in names):
        raise ValueError(f"{index}: weight_map must give each tensor the name of a .safetensors file beside it")
    return set(names)


def encoder_section(folder: Path) -> tuple[dict, str]:
    """What config.json says of the encoder, which a recogniser's keeps under encoder_config; and where it stands."""
    return subsection(folder / CONFIG, "encoder_config")


def extractor_section(folder: Path) -> tuple[dict, str]:
    """What preprocessor_config.json says; transformers 5 may keep it inside processor_config.json."""
    if (folder / EXTRACTOR).is_file():
        return read_json(folder / EXTRACTOR), str(folder / EXTRACTOR)
    if (folder / PROCESSOR).is_file() and "feature_extractor" in read_json(folder / PROCESSOR):
        return subsection(folder / PROCESSOR, "feature_extractor")
    raise FileNotFoundError(f"{folder / EXTRACTOR} is missing: it says from which features the encoder was trained")


def subsection(path: Path, key: str) -> tuple[dict, str]:
    """A section of a JSON file, or all of it where the section isn't there; and where that stands."""
    content = read_json(path)
    if content.get(key) is None:
        return content, str(path)
    if not isinstance(content[key], dict):
        raise ValueError(f"{path}: {key} must be a mapping, not a {type(content[key]).__name__}")
    return content[key], f"{path}: {key}"


# run


@torch.inference_mode()
def run_folder(folder: Path, speech: Speech) -> list[Output]:
    """Features and, under each attention implementation, encoder states, as transformers computes them."""
    batch = extractor(*extractor_section(folder))(
        speech.utterances(), sampling_rate=speech.sample_rate, return_tensors="pt"
    )
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
    """The encoder as a user of transformers gets it, with the options that concern it and no others of the folder's.

    Raises ValueError if a weight of it isn't in the folder.
    """
    ParakeetEncoder = transformers().ParakeetEncoder

    with quiet():
        model, told = ParakeetEncoder.from_pretrained(
            folder,
            config=parakeet_config(*encoder_section(folder)),
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    if told["missing_keys"]:
        raise ValueError(f"{folder}: transformers finds no {', '.join(sorted(told['missing_keys'])[:3])}")
    return model.float().eval()


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
