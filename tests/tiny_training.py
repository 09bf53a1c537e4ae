"""What runs of `train.py` in the tests take seconds with: a model of a few thousand weights, and files of noise."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 16000
TINY_MODEL = (
    "model.encoder.n_layers=1",
    "model.encoder.d_model=16",
    "model.encoder.n_heads=2",
    "model.encoder.subsampling_conv_channels=4",
    "model.num_classes=16",
    "model.masking.min_masks=1",
)


def write_noise(folder: Path, name: str, lengths: Iterable[int], rng: np.random.Generator) -> None:
    """`name`.json, a manifest of low-passed noise, with a file `name`0.wav, ... for each length in samples."""
    lines = []
    for index, length in enumerate(lengths):
        samples = np.convolve(rng.standard_normal(length), np.ones(8) / 8, mode="same") * 0.1
        soundfile.write(folder / f"{name}{index}.wav", samples, SAMPLE_RATE)
        lines.append(json.dumps({"audio_filepath": f"{name}{index}.wav", "duration": length / SAMPLE_RATE}))
    (folder / f"{name}.json").write_text("\n".join(lines), encoding="utf-8")
