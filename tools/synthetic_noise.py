"""Noise to put under synthetic speech, one function per kind, from numpy alone."""

from collections.abc import Callable

import numpy as np

from tools.synthetic_speech import make_talker, say_something

MAJOR_SCALE = (0, 2, 4, 5, 7, 9, 11)  # semitones
NOTE_SECONDS = 0.35


def white(num_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(num_samples)


def pink(num_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """White noise whose power falls with frequency, level from 20 Hz down."""
    frequencies_hz = np.fft.rfftfreq(num_samples, 1 / sample_rate)
    spectrum = np.fft.rfft(rng.standard_normal(num_samples)) / np.sqrt(np.maximum(frequencies_hz, 20.0))
    return np.fft.irfft(spectrum, n=num_samples)


def hum(num_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Mains and its harmonics, swelling slowly, over a little hiss."""
    time = np.arange(num_samples) / sample_rate
    mains_hz = rng.choice([50.0, 60.0])
    harmonics = np.arange(1, 13)[:, None]
    tones = np.sin(2 * np.pi * (mains_hz * harmonics * time + rng.uniform(size=harmonics.shape))) / harmonics
    swell = 1.0 + 0.3 * np.sin(2 * np.pi * (rng.uniform(0.2, 0.6) * time + rng.uniform()))
    return tones.sum(axis=0) * swell + 0.02 * rng.standard_normal(num_samples)


def babble(num_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Six talkers at once."""
    seconds = num_samples / sample_rate
    return sum(say_something(make_talker("", rng), seconds, sample_rate, rng)[0] for _ in range(6))


def knocks(num_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Three short, ringing knocks a second, on average, over faint hiss."""
    num_knocks = max(1, rng.poisson(3.0 * num_samples / sample_rate))
    beats = np.zeros(num_samples)
    beats[rng.integers(0, num_samples, num_knocks)] = rng.uniform(0.3, 1.0, num_knocks)
    time = np.arange(round(0.08 * sample_rate)) / sample_rate
    ring = np.exp(-60.0 * time) * rng.standard_normal(len(time)) + np.exp(-30.0 * time) * np.sin(
        2 * np.pi * rng.uniform(200.0, 1200.0) * time
    )
    return np.convolve(beats, ring)[:num_samples] + 0.005 * rng.standard_normal(num_samples)


def music(num_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Plucked triads that wander over a major scale."""
    note_samples = round(NOTE_SECONDS * sample_rate)
    num_notes = -(-num_samples // note_samples)
    degrees = np.cumsum(rng.integers(-2, 3, num_notes))
    triad = degrees[:, None] + np.array([0, 2, 4])                                           # (notes, 3)
    semitones = np.take(MAJOR_SCALE, triad % 7) + 12 * (triad // 7 % 2)
    pitch_hz = rng.uniform(150.0, 250.0) * 2.0 ** (semitones / 12)
    time = np.arange(note_samples) / sample_rate
    overtones = np.arange(1, 6)
    waves = np.sin(2 * np.pi * pitch_hz[..., None, None] * overtones[:, None] * time) / overtones[:, None] ** 1.5
    return (waves.sum(axis=(1, 2)) * np.exp(-5.0 * time)).ravel()[:num_samples]


NOISES: dict[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "white": white,
    "pink": pink,
    "hum": hum,
    "babble": babble,
    "knocks": knocks,
    "music": music,
}  # each entry: (num_samples, sample_rate, rng) -> (N,) at any level


def make_noise(kind: str, seconds: float, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) float32 with its peak between 0.2 and 0.7."""
    noise = NOISES[kind](round(seconds * sample_rate), sample_rate, rng)
    return (noise * rng.uniform(0.2, 0.7) / np.abs(noise).max()).astype(np.float32)
