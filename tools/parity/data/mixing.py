"""Batch augmentation on a batch of its own: the same draws, or many draws of one distribution."""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module

import numpy as np
import torch
from torch import Tensor

from tools.parity.cases import SEED, Levels
from tools.parity.data.distributions import same_distribution, same_share
from tools.parity.data.samples import compare_samples
from tools.parity.data.scenes import train_section
from tools.parity.rows import Row
from tools.parity.side import Side

MODULE = "modules.ssl_modules.augmentation"
LENGTHS = [900, 1200, 700, 1500, 1000, 1600]
NOISE_LENGTH = 300
DRAWS = 150  # batches of each setting
RATIOS = {"min_r_speech": -5.0, "max_r_speech": 5.0, "min_r_noise": -5.0, "max_r_noise": 20.0}
NEST = RATIOS | {
    "prob": 0.5, "noise_ratio": 0.5, "min_mix_rate": 0.5, "max_mix_rate": 0.5, "min_num_segments": 1,
    "max_num_segments": 1, "min_num_speakers": 1, "max_num_speakers": 1,
}  # fmt: skip
# class and options; one stretch of one source is drawn in the same order, from Python's generator
STRETCHES = {
    "one stretch of noise": ("SpeakerNoiseAugmentation", {"noise_ratio": 1.0, "min_mix_rate": 0.1}),
    "one stretch of a talker": ("SpeakerNoiseAugmentation", {"noise_ratio": 0.0, "min_mix_rate": 0.4}),
}
SETTINGS = {
    "as in NEST": ("MultiSpeakerNoiseAugmentation", NEST),
    "several segments": (
        "MultiSpeakerNoiseAugmentation",
        NEST | {"prob": 0.7, "min_mix_rate": 0.1, "max_mix_rate": 0.8, "min_num_segments": 1, "max_num_segments": 5,
                "min_num_speakers": 1, "max_num_speakers": 4},
    ),
}  # fmt: skip
MEASURED = ("energy ratio, dB", "covered share", "first sample", "last sample", "longest segment", "segments")


def make_batch(side: Side):
    """Six utterances, each at its own level, and noise that is shorter than all of them."""
    rng = np.random.default_rng(SEED)
    audio, noise = (rng.standard_normal((len(LENGTHS), max(LENGTHS)), np.float32) for _ in range(2))
    audio, noise = audio * np.arange(1, 7, dtype=np.float32)[:, None] / 10, np.abs(noise) + 0.1
    for row, length in enumerate(LENGTHS):
        audio[row, length:] = 0
        noise[row, NOISE_LENGTH:] = 0
    batch_class = import_module(f"{side.package}data.ssl_dataset").AudioNoiseBatch
    return batch_class(
        audio=torch.from_numpy(audio),
        audio_len=torch.tensor(LENGTHS),
        noise=torch.from_numpy(noise),
        noise_len=torch.full((len(LENGTHS),), NOISE_LENGTH),
    )


def mix(side: Side, class_name: str, options: dict, seed: int, *, from_items: bool):
    """from_items: where items have seeds, as ours do in a training run, draws start from these."""
    batch = make_batch(side)
    random.seed(seed)
    if from_items and "seeds" in [entry.name for entry in fields(batch)]:
        batch.seeds = torch.from_numpy(np.random.default_rng(seed).integers(2**63, size=len(LENGTHS)))
    return getattr(import_module(f"{side.package}{MODULE}"), class_name)(**options)(batch)


def settings(side: Side) -> dict[str, tuple[str, dict]]:
    """With the batch augmentor of the config, where it has one of these classes."""
    given = train_section(side).get("batch_augmentor")
    if not given or not class_of(given).endswith("SpeakerNoiseAugmentation"):
        return SETTINGS
    options = {key: value for key, value in given.items() if key != "_target_"}
    return SETTINGS | {"as in the config": (class_of(given), options)}


def class_of(section: dict) -> str:
    return section["_target_"].rsplit(".", 1)[-1]


def measure(side: Side, step: int) -> Levels:
    """step: one sample in so many is kept."""
    tensors: Levels = {}
    for name, (class_name, options) in STRETCHES.items():
        options = RATIOS | {"prob": 0.8, "max_mix_rate": 0.9} | options
        mixed = mix(side, class_name, options, SEED, from_items=False)
        tensors |= {f"{name}/{kind}": getattr(mixed, kind)[:, ::step] for kind in ("noise", "noisy_audio")}
        tensors[f"{name}/noise_len"] = mixed.noise_len
    for name, (class_name, options) in settings(side).items():
        drawn = [mix(side, class_name, options, SEED + i, from_items=True) for i in range(DRAWS)]
        tensors[f"{name}/is_mixed"], tensors[f"{name}/measured"] = measurements(drawn, make_batch(side).noise)
    return tensors


def measurements(batches: list, untouched: Tensor) -> tuple[Tensor, Tensor]:
    """Of all items: () whether anything was mixed in; of those, (M, 6): MEASURED."""
    is_mixed, rows = [], []
    for batch in batches:
        for i, length in enumerate(LENGTHS):
            added = batch.noise[i, :length].double()
            is_mixed.append(not torch.equal(batch.noise[i], untouched[i]))
            heard = added.nonzero().flatten()
            if is_mixed[-1] and len(heard):
                rows.append(of_item(batch.audio[i, :length].double(), added, heard))
    return torch.tensor(is_mixed, dtype=torch.uint8), torch.tensor(rows).reshape(-1, len(MEASURED))


def of_item(audio: Tensor, added: Tensor, heard: Tensor) -> list[float]:
    """MEASURED of one item. audio, added: (N,); heard: indices of what is added."""
    ratio_db = 10 * math.log10(audio.square().sum() / added.square().sum())
    gaps = (heard.diff() > 1).nonzero().flatten().tolist()
    longest = max(b - a for a, b in itertools.pairwise([-1, *gaps, len(heard) - 1]))
    shares = [len(heard), int(heard[0]), int(heard[-1]), longest]
    return [ratio_db, *(share / len(audio) for share in shares), len(gaps) + 1]


def compare(ours: Levels, nemo: Levels) -> Iterator[Row]:
    for name, expected in nemo.items():
        scene, what = name.split("/")
        title = f"mixing, {scene}"
        if what == "is_mixed":
            yield same_share("data", f"{title}: share of items", ours[name], expected, MODULE)
        elif what == "measured":
            for column, measured in enumerate(MEASURED):
                pair = ours[name][:, column], expected[:, column]
                yield same_distribution("data", f"{title}: {measured}", *pair, MODULE)
        else:
            yield compare_samples(f"{title}: {what}", ours[name], expected, module=MODULE)
