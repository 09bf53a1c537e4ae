"""A user's recordings as the batch that both sides hear: of any format and rate, clean and in noise, unequally long."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import torch

from parts.preprocessing.audio_file import BadAudio
from parts.preprocessing.segment import load_audio
from tools.parity.cases import SEED, Levels, as_int16
from tools.synthetic_noise import NOISES, make_noise

LONGEST_SECONDS, SHORTEST_SECONDS = 20.0, 1.0
SHORTER = 0.73  # of an utterance that must not be as long as the others: padding has to stand somewhere
SNR_DB = 10.0
LOUDEST = 0.99
REMEDIES = {
    "--audio": "give another recording, or none for synthetic speech",
    "--noise": "give another file, or none for synthetic noise",
}


def own_audio(paths: Sequence[Path], sample_rate: int, noise: Path | None = None) -> tuple[Levels, list[str]]:
    """`clean` and `noisy` (B, N) int16 with `lengths` (B,), and what became of the recordings, a sentence each.

    sample_rate: Hz, of the model.  noise: a file to mix in; None: synthetic noise, another kind for each utterance.
    Raises ValueError, in one line, for a file that can't be used.
    """
    read_files = [read(path, sample_rate) for path in paths]
    speech, notes = [samples for samples, _ in read_files], [note for _, notes in read_files for note in notes]
    if len({len(samples) for samples in speech}) == 1:
        shorter = speech[-1][: round(SHORTER * len(speech[-1]))]
        speech = [*speech, shorter] if len(speech) == 1 else [*speech[:-1], shorter]
        notes.append(f"so that lengths differ, {SHORTER:.0%} of {paths[-1].name} is an utterance, too")
    background = None if noise is None else decoded(noise, sample_rate, "--noise")
    clean = np.zeros((len(speech), max(map(len, speech))))
    noisy = np.zeros_like(clean)
    for row, (samples, kind) in enumerate(zip(speech, cycle(NOISES))):
        added = noise_for(samples, kind, background, sample_rate, row)
        loudest = max(np.abs(samples).max(), np.abs(samples + added).max())
        scale = min(1.0, LOUDEST / loudest)
        clean[row, : len(samples)] = scale * samples
        noisy[row, : len(samples)] = scale * (samples + added)
    lengths = torch.tensor([len(samples) for samples in speech])
    return {"clean": as_int16(clean), "noisy": as_int16(noisy), "lengths": lengths}, notes


def read(path: Path, sample_rate: int) -> tuple[np.ndarray, list[str]]:
    """(N,) float32, at most LONGEST_SECONDS and at least SHORTEST_SECONDS of it, and notes of what that took."""
    notes = []
    samples = decoded(path, sample_rate, "--audio")
    longest, shortest = (round(seconds * sample_rate) for seconds in (LONGEST_SECONDS, SHORTEST_SECONDS))
    if len(samples) > longest:
        notes.append(f"{path.name} is cut to its first {LONGEST_SECONDS:g} s")
    if len(samples) < shortest:
        notes.append(f"{path.name} ({len(samples) / sample_rate:.2f} s) is repeated to last {SHORTEST_SECONDS:g} s")
        samples = np.resize(samples, shortest)
    return samples[:longest], notes


def decoded(path: Path, sample_rate: int, option: str) -> np.ndarray:
    """(N,) float32: all of a file, or a little more than LONGEST_SECONDS of a longer one. option: of REMEDIES."""
    try:
        try:
            return load_audio(path, sample_rate, duration=LONGEST_SECONDS + 0.1)
        except BadAudio as error:
            if error.reason != "too_short":
                raise
            return load_audio(path, sample_rate)  # less than half as long
    except BadAudio as error:
        raise ValueError(
            f"{option} {path} can't be used as audio ({error.reason}): {error}; {REMEDIES[option]}"
        ) from error


def noise_for(samples: np.ndarray, kind: str, background: np.ndarray | None, sample_rate: int, row: int) -> np.ndarray:
    """(N,) noise at SNR_DB under the samples."""
    if background is None:
        rng = np.random.default_rng((SEED, row))
        added = np.resize(make_noise(kind, len(samples) / sample_rate, sample_rate, rng), len(samples))
    else:
        added = np.resize(background, len(samples))
    return added * np.sqrt(np.mean(samples**2) / np.mean(added**2)) * 10 ** (-SNR_DB / 20)
