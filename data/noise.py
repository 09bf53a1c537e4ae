"""Background noise for an utterance: drawn from a noise manifest, loaded, fitted to the utterance's length.

Names, defaults and distributions are NeMo 3.0.0's (`asr/data/ssl_dataset.py`). All functions take a numpy generator;
without one they start from numpy's global seed, which is what NeMo draws from.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.kept_audio import KeptAudio
from parts.batch_types import BadSample
from parts.preprocessing.drawn_audio import as_utterance, draw_audio
from parts.preprocessing.manifest import read_manifests, seconds_of
from parts.preprocessing.perturb import white_noise
from parts.preprocessing.segment import load_audio
from parts.preprocessing.utterances import Utterance, UtteranceTable
from utils.stopwatch import stage

KEPT_SECONDS = 10.0  # longest noise that is kept in memory, decoded
KEPT = KeptAudio(max_bytes=64 * 2**20)  # of each process: 100 noises of 10 s, or 1,000 of 1 s, at 16 kHz
SILENCE_DB = -100.0  # mean power below this, relative to full scale, is silence; 16-bit rounding alone is at -101


def read_noise_manifest(
    noise_manifest: str | Sequence[str] | None, config_path: str = "model.train_ds.noise_manifest"
) -> UtteranceTable:
    """The noise manifests as a table, for `sample_noise`; without rows where there is no manifest."""
    return UtteranceTable.of([]) if noise_manifest is None else read_manifests(noise_manifest, config_path)


def load_noise_manifest(
    noise_manifest: str | Sequence[str] | None, config_path: str = "model.train_ds.noise_manifest"
) -> list[dict]:
    """Lines of the noise manifests as dicts, as in NeMo: audio_filepath, duration (None where not stated), offset,
    manifest and line. [] without a manifest. A data set keeps the much smaller `read_noise_manifest`.
    """
    return [entry._asdict() for entry in read_noise_manifest(noise_manifest, config_path)]


def sample_noise(
    noise_data: Sequence[Mapping] | UtteranceTable,
    sample_rate: int,
    max_audio_len: int | None = None,
    max_trial: int = 20,
    *,
    rng: np.random.Generator | None = None,
    rejected: list[BadSample] | None = None,
) -> tuple[Tensor, Tensor]:
    """Noise for one utterance, from a random line of the noise manifest.

    max_audio_len: samples of the utterance; None: all of the noise file.
    max_trial: lines tried before giving up; each unusable one is logged, and added to `rejected` if that is given.
    Returns noise (max_audio_len,) float32 and its valid length () int64; zeros of full length without noise data
    or after `max_trial` failures.
    """
    rng = rng or global_generator()

    def load(entry: Utterance) -> tuple[Tensor, Tensor]:
        return load_noise_audio(entry, sample_rate, max_audio_len, rng=rng)

    with stage("noise"):
        drawn = draw_audio(noise_data, load, rng, kind="noise", rejected=rejected, max_trials=max_trial)
    num_samples = max_audio_len or 0
    return (torch.zeros(num_samples), torch.tensor(num_samples)) if drawn is None else drawn


def load_noise_audio(
    sample: Mapping | Utterance,
    sample_rate: int,
    max_audio_len: int | None = None,
    pad_to_max: bool = True,
    min_white_noise_db: int = -90,
    max_white_noise_db: int = -46,
    max_trial: int = 100,
    *,
    rng: np.random.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Load one noise file: a random crop of it if it is longer than `max_audio_len` samples, else all of it.

    sample: audio_filepath, and duration and offset in seconds where known. A missing duration is read from the file's
        header, so that such files are cropped at random, too (NeMo 3.0.0 takes their beginning).
    pad_to_max: give exactly `max_audio_len` samples, zeros behind the noise.
    min_white_noise_db, max_white_noise_db: level of the white noise that is added to a silent piece.
    max_trial: crops tried until one isn't silent.
    Returns noise (N,) float32 and its length without padding, () int64.
    Raises BadAudio for a file that can't be used.

    Differs from NeMo 3.0.0, which tests `sum(samples) > 0` (zero-mean and negative noise looked silent and was read
    up to 100 times), crops from the start of the file even where the line has an offset, and fails on stereo.
    """
    rng = rng or global_generator()
    entry = as_utterance(sample)
    seconds = seconds_of(entry)
    is_cropped = max_audio_len is not None and seconds is not None and seconds > max_audio_len / sample_rate

    for _ in range(max(1, max_trial) if is_cropped else 1):
        samples = read_piece(entry, seconds, sample_rate, max_audio_len if is_cropped else None, rng)
        if not is_silent(samples):
            break
    else:
        samples = samples + white_noise(len(samples), min_white_noise_db, max_white_noise_db, rng)

    noise = torch.from_numpy(samples)
    noise_len = len(noise)
    if max_audio_len is not None and pad_to_max:
        noise_len = min(noise_len, max_audio_len)
        noise = F.pad(noise[:max_audio_len], (0, max_audio_len - noise_len))
    return noise, torch.tensor(noise_len)


def read_piece(
    entry: Utterance, seconds: float | None, sample_rate: int, crop_samples: int | None, rng: np.random.Generator
) -> np.ndarray:
    """`crop_samples` of a noise of `seconds` from a random place on, or all of it, (N,) float32. Raises BadAudio.

    A short noise is always decoded as a whole and kept, so that what is drawn doesn't depend on what was kept; of a
    long one only the piece is read. Silence is returned like any sound.
    """
    read = partial(load_audio, entry.audio_filepath, sample_rate, allow_silent=True)
    if seconds is not None and seconds <= KEPT_SECONDS:
        place = (entry.audio_filepath, entry.offset, entry.duration, sample_rate, modified(entry.audio_filepath))
        samples = KEPT.get(place, partial(read, offset=entry.offset, duration=entry.duration))
        crop_samples = crop_samples or len(samples)
        start = int(rng.integers(max(0, len(samples) - crop_samples) + 1))
        return samples[start : start + crop_samples].copy()
    if crop_samples is None:
        return read(offset=entry.offset, duration=entry.duration)
    crop_seconds = crop_samples / sample_rate
    return read(offset=entry.offset + rng.uniform(0, seconds - crop_seconds), duration=crop_seconds)


def modified(path: str) -> float:
    """When the file was written last; 0 where there is none."""
    return os.path.getmtime(path) if os.path.exists(path) else 0.0


def is_silent(samples: np.ndarray) -> bool:
    """True when the mean power of (N,) samples is below SILENCE_DB."""
    return np.square(samples, dtype=np.float64).mean() < 10.0 ** (SILENCE_DB / 10)


def global_generator() -> np.random.Generator:
    """A generator that follows `np.random.seed`."""
    return np.random.default_rng(np.random.randint(2**31))
