"""A piece of an audio file as mono float32 samples at the rate the model wants.

soxr is imported on first use: importing a model must not wait for it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from parts.preprocessing.audio_file import AudioSource, BadAudio, decode
from utils.logging import info_once
from utils.stopwatch import stage

ChannelSelector = int | Sequence[int] | str | None

LOUDEST_SAMPLE = 100.0  # full scale is 1; beyond this a file isn't audio, and squares soon overflow float32
SILENT_BELOW = 1e-4  # three steps of 16-bit audio
SHORTEST_SHARE = 0.5  # of the stated duration
TRIM_TOP_DB = 60
TRIM_HOP_SAMPLES = 512
TRIM_HOPS_PER_FRAME = 4
TRIM_LOWEST_POWER = 1e-10


def load_audio(
    source: AudioSource,
    sample_rate: int,
    *,
    offset: float = 0.0,
    duration: float | None = None,
    channel_selector: ChannelSelector = "average",
    trim: bool = False,
    int_values: bool = False,
    normalize_db: float | None = None,
    allow_silent: bool = False,
) -> np.ndarray:
    """Decode, mix down, resample, trim and normalise, in NeMo's order.

    source: a path, or a file opened in binary mode.
    offset, duration: seconds, rounded down to samples of the file; no duration, or 0, means to the end of the file.
    trim: cut leading and trailing parts 60 dB below the peak.
    int_values: give what 32-bit integers can hold, that is, clip at full scale. NeMo 3.0.0 decodes to integers, the
        same for integer formats, and makes silence of float files.
    normalize_db: RMS level to bring the samples to, in dB of full scale.
    allow_silent: give silence as it is (noise) instead of refusing it.
    Returns (N,) float32.
    Raises BadAudio; see `read_usable`.
    Source: NeMo 3.0.0 `AudioSegment.from_file`.
    """
    with stage("decode"):
        samples, file_rate = read_usable(
            source, offset=offset, duration=duration, channel_selector=channel_selector, allow_silent=allow_silent
        )
        if int_values:
            samples.clip(-1.0, 1.0, out=samples)
    with stage("resample"):
        samples = resample(samples, file_rate, sample_rate)
    if trim:
        samples = trim_silence(samples)
    if normalize_db is not None:
        samples = normalize_level(samples, normalize_db)
    return samples


def read_usable(
    source: AudioSource,
    *,
    offset: float = 0.0,
    duration: float | None = None,
    channel_selector: ChannelSelector = "average",
    allow_silent: bool = False,
    watch: Callable[[np.ndarray], None] | None = None,
) -> tuple[np.ndarray, int]:
    """A piece of a file, mixed down to (N,) float32, and the file's rate in Hz: what `load_audio` resamples.

    watch: sees every block (n, channels) as it was decoded.
    Raises BadAudio for what `decode` and `refuse_unusable` refuse, and `too_short` for less than half of `duration`.
    """

    def mix(block: np.ndarray) -> np.ndarray:
        if watch is not None:
            watch(block)
        return to_mono(block, channel_selector)

    samples, file_rate = decode(source, offset, duration, mix)
    refuse_unusable(samples, allow_silent)
    if duration and len(samples) < SHORTEST_SHARE * duration * file_rate:
        raise BadAudio("too_short", f"{len(samples) / file_rate:.3f} s of the stated {duration} s are there")
    return samples, file_rate


def to_mono(channels: np.ndarray, channel_selector: ChannelSelector = "average") -> np.ndarray:
    """(N, channels) -> (N,): one channel, or the mean of the selected ones. Raises BadAudio for a missing channel.

    NeMo 3.0.0 passes several channels on, by default and for a list, and its collate then pads the wrong axis (it
    asked for 50 GB on two stereo files). Here None means "average" and a list averages the channels it names.
    """
    count = channels.shape[1]
    if channel_selector is None or channel_selector == "average":
        if count > 1:
            info_once("audio of several channels is averaged to one; channel_selector picks channels instead")
        selected = range(count)
    else:
        selected = [channel_selector] if isinstance(channel_selector, int) else channel_selector
    if max(selected) >= count:
        raise BadAudio(
            "unreadable", f"channel_selector={channel_selector} asks for more than the file's {count} channels"
        )
    mono = channels[:, selected[0]]
    with np.errstate(over="ignore", invalid="ignore"):  # such samples are refused
        for channel in selected[1:]:  # 36 times faster than numpy's mean over the short axis
            mono = mono + channels[:, channel]
        return mono / np.float32(len(selected)) if len(selected) > 1 else mono


def check_channel_selector(channel_selector: ChannelSelector) -> None:
    """Raise ValueError for anything but "average", None, a channel number from 0 or a list of them."""
    if channel_selector in (None, "average"):
        return
    numbers = channel_selector if isinstance(channel_selector, Sequence) else [channel_selector]
    if not numbers or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"channel_selector={channel_selector!r} is not 'average', a channel number or a list of them")


def refuse_unusable(samples: np.ndarray, allow_silent: bool = False) -> None:
    """Raise BadAudio when (N,) samples would make a loss or a gradient NaN, hold nothing to learn from, or are none.

    `empty`; `non_finite`: any NaN or Inf; `out_of_scale`: magnitude above 100; `silent`: no sample is further than
    1e-4 from their mean.
    """
    if len(samples) == 0:
        raise BadAudio("empty", "no samples")
    highest, lowest = float(samples.max()), float(samples.min())  # NaN if any sample is
    if not np.isfinite(highest - lowest):
        raise BadAudio("non_finite", f"{np.count_nonzero(~np.isfinite(samples))} samples are NaN or infinite")
    peak = max(highest, -lowest)
    if peak > LOUDEST_SAMPLE:
        raise BadAudio("out_of_scale", f"peak {peak:.3g}, full scale is 1")
    mean = float(samples.mean(dtype=np.float64))
    peak = max(highest - mean, mean - lowest)
    if peak <= SILENT_BELOW and not allow_silent:
        raise BadAudio("silent", f"peak {peak:.3g} around a mean of {mean:.3g}, full scale is 1")


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """(N,) -> (ceil(N * to_rate / from_rate),) float32, bit for bit `librosa.resample`'s default (soxr, HQ).

    soxr itself is called because importing librosa's resampling takes seconds in every loader worker.
    """
    if from_rate == to_rate:
        return samples
    import soxr

    num_samples = int(np.ceil(len(samples) * (to_rate / from_rate)))
    resampled = soxr.resample(samples, from_rate, to_rate, quality="HQ")[:num_samples]
    missing = num_samples - len(resampled)
    return np.pad(resampled, (0, missing)) if missing else resampled


def trim_silence(samples: np.ndarray) -> np.ndarray:
    """Cut what is 60 dB below the peak from both ends of (N,), as `librosa.effects.trim` does.

    Power is taken over frames of 2048 samples, 512 apart, each centred on its hop's first sample. librosa's own
    function takes four times the memory of the samples and a second to import.
    """
    whole = len(samples) // TRIM_HOP_SAMPLES
    hops = samples[: whole * TRIM_HOP_SAMPLES].reshape(whole, TRIM_HOP_SAMPLES)
    rest = samples[whole * TRIM_HOP_SAMPLES :]
    energy = np.append(np.einsum("ij,ij->i", hops, hops), rest @ rest)  # (hops,)
    half = TRIM_HOPS_PER_FRAME // 2
    frames = np.convolve(energy, np.ones(TRIM_HOPS_PER_FRAME))[half - 1 :][: whole + 1]
    power = np.maximum(frames / (TRIM_HOPS_PER_FRAME * TRIM_HOP_SAMPLES), TRIM_LOWEST_POWER)
    loud = np.flatnonzero(power > power.max() * 10.0 ** (-TRIM_TOP_DB / 10))
    return samples[loud[0] * TRIM_HOP_SAMPLES : (loud[-1] + 1) * TRIM_HOP_SAMPLES]


def normalize_level(samples: np.ndarray, target_db: float) -> np.ndarray:
    """Scale to an RMS of `target_db` relative to full scale; digital silence stays as it is."""
    rms = np.sqrt(np.square(samples, dtype=np.float64).mean())
    if rms == 0:
        return samples
    return (samples * (10.0 ** (target_db / 20) / rms)).astype(np.float32)
