"""A piece of an audio file as mono float32 samples at the rate the model wants.

Decoders (soundfile, soxr, librosa) are imported on first use: importing a model must not wait for them.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from utils.logging import info_once

if TYPE_CHECKING:
    import soundfile

ChannelSelector = int | Sequence[int] | str | None

LOUDEST_SAMPLE = 100.0  # full scale is 1; beyond this a file isn't audio, and squares soon overflow float32
TRIM_TOP_DB = 60
TRIM_FRAME_SAMPLES = 2048
TRIM_HOP_SAMPLES = 512


class BadAudio(ValueError):
    """Audio that can't be used. `reason` is one word to count by; the message is the detail."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


def load_audio(
    path: str | os.PathLike,
    sample_rate: int,
    *,
    offset: float = 0.0,
    duration: float | None = None,
    channel_selector: ChannelSelector = "average",
    trim: bool = False,
    int_values: bool = False,
    normalize_db: float | None = None,
) -> np.ndarray:
    """Decode, mix down, resample, trim and normalise, in NeMo's order.

    offset, duration: seconds; no duration, or 0, means to the end of the file.
    trim: cut leading and trailing parts 60 dB below the peak.
    int_values: give what 32-bit integers can hold, that is, clip at full scale. NeMo 3.0.0 decodes to integers, the
        same for integer formats, and makes silence of float files.
    normalize_db: RMS level to bring the samples to, in dB of full scale.
    Returns (N,) float32.
    Raises BadAudio: `unreadable`, `bad_entry` (offset beyond the end), `empty`, `non_finite` or `out_of_scale`.
    Source: NeMo 3.0.0 `AudioSegment.from_file`.
    """
    samples, file_rate = decode(path, offset, duration)
    samples = to_mono(samples, channel_selector)
    refuse_unusable(samples)
    if int_values:
        samples = samples.clip(-1.0, 1.0)
    samples = resample(samples, file_rate, sample_rate)
    if trim:
        samples = trim_silence(samples)
        refuse_unusable(samples)
    if normalize_db is not None:
        samples = normalize_level(samples, normalize_db)
    return samples


def decode(path: str | os.PathLike, offset: float = 0.0, duration: float | None = None) -> tuple[np.ndarray, int]:
    """Samples of a file as it is, (N,) or (N, channels) float32, and its rate in Hz. Seeks, so a late piece is cheap.

    Fewer samples than `duration` promises are returned as they are.
    """
    import soundfile

    with open_audio(path) as file:
        start = int(min(offset * file.samplerate, file.frames))
        num_frames = int(min(duration * file.samplerate, file.frames)) if duration else -1
        if start and start >= file.frames:
            raise BadAudio("bad_entry", f"offset {offset} s is beyond the end at {length_seconds(file):.3f} s")
        try:
            if start:
                file.seek(start)
            return file.read(num_frames, dtype="float32"), file.samplerate
        except (
            soundfile.SoundFileError,  # damaged or cut FLAC: opens, but does not decode
            MemoryError,  # a damaged FLAC header may claim up to 2**36 samples
        ) as error:
            raise BadAudio("unreadable", str(error)) from error


def open_audio(path: str | os.PathLike) -> "soundfile.SoundFile":
    """A file with its header read. Raises BadAudio."""
    import soundfile

    try:
        return soundfile.SoundFile(path)
    except (
        soundfile.SoundFileError,  # no such file, a folder, text, zero bytes, a header without rate or channels
        TypeError,  # headerless .raw, whose sample rate soundfile wants as an argument
        UnicodeEncodeError,  # a JSON escape such as \udc80 in a file name
    ) as error:
        raise BadAudio("unreadable", str(error)) from error


def header_seconds(path: str | os.PathLike) -> float | None:
    """Length of a file as its header states it, in seconds; None when the header can't be read."""
    try:
        with open_audio(path) as file:
            return length_seconds(file)
    except BadAudio:
        return None


def length_seconds(file: "soundfile.SoundFile") -> float:
    return file.frames / file.samplerate


def to_mono(samples: np.ndarray, channel_selector: ChannelSelector = "average") -> np.ndarray:
    """(N,) or (N, channels) -> (N,): one channel, or the mean of the selected ones.

    NeMo 3.0.0 passes several channels on, by default and for a list, and its collate then pads the wrong axis (it
    asked for 50 GB on two stereo files). Here None means "average" and a list averages the channels it names.
    """
    channels = samples[:, None] if samples.ndim == 1 else samples
    count = channels.shape[1]
    if channel_selector is None or channel_selector == "average":
        if count > 1:
            info_once("audio of several channels is averaged to one; channel_selector picks channels instead")
        selected = range(count)
    else:
        selected = [channel_selector] if isinstance(channel_selector, int) else list(channel_selector)
    if max(selected) >= count:
        raise BadAudio("unreadable", f"channel_selector={channel_selector} asks for more than its {count} channels")
    if len(selected) == 1:
        return channels[:, selected[0]]
    return channels[:, list(selected)].mean(axis=1)


def check_channel_selector(channel_selector: ChannelSelector) -> None:
    """Raise ValueError for anything but "average", None, a channel number from 0 or a list of them."""
    if channel_selector in (None, "average"):
        return
    numbers = channel_selector if isinstance(channel_selector, Sequence) else [channel_selector]
    if not numbers or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"channel_selector={channel_selector!r} is not 'average', a channel number or a list of them")


def refuse_unusable(samples: np.ndarray) -> None:
    """Raise BadAudio when these samples would make a loss or a gradient NaN, or are none."""
    if len(samples) == 0:
        raise BadAudio("empty", "no samples")
    peak = np.abs(samples).max()
    if not np.isfinite(peak):
        raise BadAudio("non_finite", f"{np.count_nonzero(~np.isfinite(samples))} samples are NaN or infinite")
    if peak > LOUDEST_SAMPLE:
        raise BadAudio("out_of_scale", f"peak {peak:.3g}, full scale is 1")


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """(N,) -> (ceil(N * to_rate / from_rate),) float32, bit for bit `librosa.resample`'s default (soxr, HQ).

    soxr itself is called because importing librosa's resampling takes seconds in every loader worker.
    """
    if from_rate == to_rate:
        return samples
    import soxr

    num_samples = int(np.ceil(len(samples) * (to_rate / from_rate)))
    resampled = soxr.resample(samples, from_rate, to_rate, quality="HQ")[:num_samples]
    return np.pad(resampled, (0, num_samples - len(resampled)))


def trim_silence(samples: np.ndarray) -> np.ndarray:
    """Cut what is 60 dB below the peak from both ends."""
    import librosa

    trimmed, _ = librosa.effects.trim(
        samples, top_db=TRIM_TOP_DB, ref=np.max, frame_length=TRIM_FRAME_SAMPLES, hop_length=TRIM_HOP_SAMPLES
    )
    return trimmed


def normalize_level(samples: np.ndarray, target_db: float) -> np.ndarray:
    """Scale to an RMS of `target_db` relative to full scale; digital silence stays as it is."""
    rms = np.sqrt(np.square(samples, dtype=np.float64).mean())
    if rms == 0:
        return samples
    return (samples * (10.0 ** (target_db / 20) / rms)).astype(np.float32)
