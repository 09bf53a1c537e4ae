"""The draws of `MultiSpeakerNoiseAugmentation` against a slow, obvious way to make them (NeMo 3.0.0's), by many draws.

The generators are seeded, so the tests always see the same draws.
"""

from collections import Counter
from random import Random

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, ks_2samp, kstest

from modules.ssl_modules.augmentation import (
    MultiSpeakerNoiseAugmentation,
    SpeakerNoiseAugmentation,
    ordered_starts,
    random_sizes,
    take_turns,
)

DRAWS = 400
UNLIKELY = 1e-3  # p value below which two samples don't come from one distribution


def slow_sizes(rng: Random, total: int, parts: int) -> list[int]:
    """Each sample chooses its part."""
    chosen = Counter(rng.choices(range(parts), k=total))
    return [chosen[part] for part in range(parts)]


def slow_starts(rng: Random, sizes: list[int], length: int) -> list[int]:
    """Each segment goes anywhere behind the one before, so that the rest still fits."""
    starts, earliest, rest = [], 0, sum(sizes)
    for size in sizes:
        latest = length - rest
        starts.append(rng.randint(earliest, latest - 1) if earliest < latest else earliest)
        earliest, rest = starts[-1] + size, rest - size
    return starts


def slow_turns(rng: Random, num_speakers: int, num_segments: int) -> list[int]:
    """Everyone once, in order; whoever is drawn when the last has spoken goes on from there."""
    turns, speaker = [], 0
    for _ in range(num_segments):
        turns.append(speaker)
        speaker += 1
        if speaker == num_speakers:
            speaker = rng.randint(0, num_speakers - 1)
    return turns


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 5])
def test_segment_sizes_are_multinomial(parts):
    ours, slow = Random(1), Random(2)
    fast = np.array([random_sizes(ours, 200, parts) for _ in range(DRAWS)])
    wanted = np.array([slow_sizes(slow, 200, parts) for _ in range(DRAWS)])
    assert (fast.sum(1) == 200).all() and fast.shape == (DRAWS, parts)
    for part in range(parts):
        assert ks_2samp(fast[:, part], wanted[:, part]).pvalue > UNLIKELY
    if parts > 1:
        covariance = -200 / parts**2
        assert np.cov(fast[:, 0], fast[:, 1])[0, 1] == pytest.approx(covariance, abs=5 * 200 / parts / DRAWS**0.5)


@pytest.mark.parametrize("sizes", [[100], [30, 70], [10, 20, 30], [0, 5, 0, 5, 40], [300], [100, 100, 99]])
def test_segments_begin_in_order_and_do_not_overlap(sizes):
    ours, slow = Random(1), Random(2)
    fast = np.array([ordered_starts(ours, sizes, 300) for _ in range(DRAWS)])
    wanted = np.array([slow_starts(slow, sizes, 300) for _ in range(DRAWS)])
    ends = fast + np.array(sizes)
    assert fast.min() >= 0 and ends.max() <= 300 and (fast[:, 1:] >= ends[:, :-1]).all()
    for segment in range(len(sizes)):
        assert ks_2samp(fast[:, segment], wanted[:, segment]).pvalue > UNLIKELY


@pytest.mark.parametrize("num_speakers", [1, 2, 3, 4])
@pytest.mark.parametrize("num_segments", [1, 2, 5])
def test_speakers_take_turns(num_speakers, num_segments):
    ours, slow = Random(1), Random(2)
    speakers = [torch.full((50,), float(speaker)) for speaker in range(num_speakers)]
    sizes = [10 * (segment + 1) for segment in range(num_segments)]
    fast, wanted = Counter(), Counter()
    for _ in range(DRAWS):
        segments = take_turns(ours, speakers, sizes)
        assert [len(segment) for segment in segments] == sizes
        assert all((segment == segment[0]).all() for segment in segments)
        fast[tuple(int(segment[0]) for segment in segments)] += 1
        wanted[tuple(slow_turns(slow, num_speakers, num_segments))] += 1
    assert fast.keys() == wanted.keys()
    if len(fast) > 1:
        both = np.array([[fast[turns], wanted[turns]] for turns in sorted(fast)])
        assert chisquare(both[:, 0], both[:, 1]).pvalue > UNLIKELY / 10  # the wanted counts are themselves drawn


def test_a_stretch_of_speech_begins_anywhere():
    rng, speech = Random(1), torch.arange(120.0)
    starts = [int(take_turns(rng, [speech], [20])[0][0]) for _ in range(4 * DRAWS)]
    assert set(starts) == set(range(100))
    assert chisquare(np.bincount(starts)).pvalue > UNLIKELY


@pytest.mark.parametrize("augmentation", [SpeakerNoiseAugmentation, MultiSpeakerNoiseAugmentation])
def test_energy_ratios_are_uniform_and_kinds_come_at_their_share(augmentation):
    drawn = augmentation(noise_ratio=0.3, min_r_speech=-5, max_r_speech=5, min_r_noise=10, max_r_noise=20)
    rng = Random(1)
    kinds = [drawn.draw_kind(rng, 3) for _ in range(4 * DRAWS)]
    noise = [ratio for is_noise, ratio in kinds if is_noise]
    speech = [ratio for is_noise, ratio in kinds if not is_noise]
    assert len(noise) / len(kinds) == pytest.approx(0.3, abs=5 * (0.21 / len(kinds)) ** 0.5)
    assert kstest(noise, "uniform", (10, 10)).pvalue > UNLIKELY
    assert kstest(speech, "uniform", (-5, 10)).pvalue > UNLIKELY
