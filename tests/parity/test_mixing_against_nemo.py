"""Batch augmentations of NeMo and of this project side by side: equal results, or equal distributions.

Runs where NeMo 3.0.0 can be imported (`pytest -m nemo tests/parity/test_mixing_against_nemo.py` in its environment).
"""

import importlib.util
import itertools
import math
import random

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from modules.ssl_modules.augmentation import MultiSpeakerNoiseAugmentation, SpeakerNoiseAugmentation
from parts.batch_types import AudioNoiseBatch

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif(importlib.util.find_spec("nemo") is None, reason="needs the real NeMo 3.0.0 to be installed"),
]

DRAWS = 150  # batches of six
UNLIKELY = 1e-4  # p value; about 200 comparisons are made
LENGTHS = [900, 1200, 700, 1500, 1000, 1600]
RATIOS = {"min_r_speech": -7.0, "max_r_speech": 3.0, "min_r_noise": 0.0, "max_r_noise": 15.0}


def batch_arguments(noise_len: int) -> dict:
    generator = torch.Generator().manual_seed(0)
    audio, noise = torch.randn(2, len(LENGTHS), max(LENGTHS), generator=generator)
    audio, noise = audio * torch.arange(1, 7)[:, None], noise.abs() + 0.1
    noise_lengths = [min(length, noise_len) for length in LENGTHS]
    for i in range(len(LENGTHS)):
        audio[i, LENGTHS[i] :] = 0
        noise[i, noise_lengths[i] :] = 0
    return {
        "audio": audio,
        "audio_len": torch.tensor(LENGTHS),
        "noise": noise,
        "noise_len": torch.tensor(noise_lengths),
    }


def both(name: str, noise_len: int, options: dict, seed: int):
    """The same batch, mixed by NeMo and by us after the same seed."""
    from nemo.collections.asr.data import ssl_dataset as nemo_data
    from nemo.collections.asr.modules.ssl_modules import augmentation as nemo_modules

    ours = {"SpeakerNoiseAugmentation": SpeakerNoiseAugmentation}.get(name, MultiSpeakerNoiseAugmentation)
    mixed = []
    for augmentation, batch in (
        (getattr(nemo_modules, name), nemo_data.AudioNoiseBatch),
        (ours, AudioNoiseBatch),
    ):
        random.seed(seed)
        mixed.append(augmentation(**options)(batch(**batch_arguments(noise_len))))
    return mixed


@pytest.mark.parametrize("noise_ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("low, high", [(0.5, 0.5), (0.0, 0.0), (0.1, 0.3), (0.2, 0.9), (0.7, 0.7), (0.9, 0.999)])
@pytest.mark.parametrize("noise_len", [1, 333, 800, 1600])
def test_one_stretch_is_mixed_as_by_nemo_for_the_same_seed(noise_ratio, low, high, noise_len):
    options = {"prob": 0.7, "noise_ratio": noise_ratio, "min_mix_rate": low, "max_mix_rate": high} | RATIOS
    for seed in range(5):
        nemo, ours = both("SpeakerNoiseAugmentation", noise_len, options, seed)
        assert torch.allclose(ours.noise, nemo.noise, rtol=1e-5, atol=0)
        assert torch.allclose(ours.noisy_audio, nemo.noisy_audio, rtol=1e-5, atol=1e-5)
        assert torch.equal(ours.noise_len, nemo.noise_len)


SEGMENTS = [
    {"min_num_segments": 1, "max_num_segments": 1, "min_num_speakers": 1, "max_num_speakers": 1},
    {"min_num_segments": 2, "max_num_segments": 2, "min_num_speakers": 1, "max_num_speakers": 2},
    {"min_num_segments": 1, "max_num_segments": 5, "min_num_speakers": 1, "max_num_speakers": 4},
    {"min_num_segments": 5, "max_num_segments": 5, "min_num_speakers": 3, "max_num_speakers": 9},
]


@pytest.mark.parametrize("segments", SEGMENTS, ids=["1", "2", "1 to 5", "5"])
@pytest.mark.parametrize("noise_ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("low, high", [(0.5, 0.5), (0.1, 0.8)])
def test_segments_are_mixed_as_often_as_long_and_as_loud_as_by_nemo(segments, noise_ratio, low, high):
    options = {"prob": 0.6, "noise_ratio": noise_ratio, "min_mix_rate": low, "max_mix_rate": high}
    drawn = [both("MultiSpeakerNoiseAugmentation", 300, options | RATIOS | segments, seed) for seed in range(DRAWS)]
    nemo, ours = (np.array([row for batch in side for row in measurements(batch)]) for side in zip(*drawn))
    assert len(ours) / (DRAWS * 6) == pytest.approx(len(nemo) / (DRAWS * 6), abs=5 * (0.48 / (DRAWS * 6)) ** 0.5)
    for column, what in enumerate(["ratio_db", "covered", "first", "last", "longest stretch", "stretches"]):
        assert ks_2samp(nemo[:, column], ours[:, column]).pvalue > UNLIKELY, what


def measurements(batch) -> list[list[float]]:
    """Of each item that was mixed: energy ratio, covered share, first and last sample, longest and number of runs."""
    rows = []
    untouched = batch_arguments(300)["noise"]
    for i, length in enumerate(LENGTHS):
        added = batch.noise[i, :length].double()
        if torch.equal(batch.noise[i], untouched[i]):
            continue
        heard = added.nonzero().flatten()
        ratio = batch.audio[i, :length].double().square().sum() / added.square().sum()
        gaps = (heard.diff() > 1).nonzero().flatten().tolist()
        edges = [-1, *gaps, len(heard) - 1]
        longest = max(b - a for a, b in itertools.pairwise(edges))
        shares = [len(heard), int(heard[0]), int(heard[-1]), longest]
        rows.append([10 * math.log10(ratio), *(share / length for share in shares), len(gaps) + 1])
    return rows
