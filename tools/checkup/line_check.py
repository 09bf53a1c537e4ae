"""One line of a manifest: whether a data set can use it, and what the audio that it names is like."""

import hashlib
import math
import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import soundfile

from parts.preprocessing.audio_file import UNKNOWN_FRAMES, BadAudio, header_seconds, open_audio
from parts.preprocessing.segment import ChannelSelector, read_usable
from parts.preprocessing.utterances import Utterance, UtteranceTable

CACHED_FRAMES = 1 << 14  # measured at once: they stay in the cache from one look to the next
TAIL_SECONDS = 0.05  # read at the claimed end of a file, to see whether it is there
FULL_SCALE = 32767 / 32768  # float and lossy formats go beyond it when clipped
FULL_SCALE_OF = {"PCM_U8": 127 / 128, "PCM_S8": 127 / 128, "ULAW": 32124 / 32768, "ALAW": 32256 / 32768}
USED, REJECTED, BELOW_MIN, ABOVE_MAX = range(4)


class Measures(NamedTuple):
    """What the audio of a line is like, before it is mixed down or resampled.

    seconds: of the piece that the line names, decoded. whole_seconds: from its offset to the end of the file.
    dc, level_db, clipped: see `Gauge`; relative to full scale, `clipped` to all samples.
    power_db: of noise, mixed down, its mean included; NaN for speech.
    content: hash of the samples.
    """

    seconds: float = math.nan
    whole_seconds: float = math.nan
    sample_rate: int = 0
    channels: int = 0
    format: str = ""
    dc: float = 0.0
    level_db: float = -math.inf
    power_db: float = math.nan
    clipped: float = 0.0
    content: int = 0


class CheckedLine(NamedTuple):
    """One line. reason, detail: why a data set rejects it. key: equal for lines that name the same piece."""

    status: int
    manifest: str
    line: int
    stated_seconds: float
    reason: str = ""
    detail: str = ""
    key: int = 0
    measures: Measures = Measures()


@dataclass(frozen=True, kw_only=True)
class LineCheck:
    """Checks a line as a data set with these options would use it. (A class, so that it can be sent to a process.)

    sample_rate, channel_selector, min_duration, max_duration: as in a data set section of the config. No sample is
        resampled, as that is never a reason to reject one; files of a lower rate are counted.
    noise: the manifest is a noise manifest, where silence is no reason for a reject.
    """

    sample_rate: int = 16000
    channel_selector: ChannelSelector = "average"
    min_duration: float | None = None
    max_duration: float | None = None
    noise: bool = False

    def __call__(self, table: UtteranceTable, row: int) -> CheckedLine:
        utterance = table[row]
        seen = listed(utterance, USED)
        try:
            status = self.bounds(table, row, utterance.duration)
            if status != USED:
                return seen._replace(status=status)
            return seen._replace(measures=self.measure(table, row, utterance))
        except BadAudio as error:
            return seen._replace(status=REJECTED, reason=error.reason, detail=str(error))
        except Exception as error:  # whatever else a decoder raises: unknown here, and so worth a line, not an end
            return seen._replace(status=REJECTED, reason="unreadable", detail=f"{type(error).__name__}: {error}")

    def bounds(self, table: UtteranceTable, row: int, seconds: float | None) -> int:
        """USED, or the bound beyond which a line of so many seconds is; not stated, they are read from the header."""
        if self.min_duration is None and self.max_duration is None:
            return USED
        if seconds is None:
            whole, offset = header_seconds(table.open(row)), float(table.offsets[row])
            if whole is None or whole <= offset:
                return USED  # as `keep_durations` has it: decoding says what is wrong
            seconds = whole - offset
        if self.min_duration is not None and seconds < self.min_duration:
            return BELOW_MIN
        return ABOVE_MAX if self.max_duration is not None and seconds > self.max_duration else USED

    def measure(self, table: UtteranceTable, row: int, utterance: Utterance) -> Measures:
        """Read the piece as the data set does, listening to it meanwhile. Raises BadAudio."""
        with open_audio(table.open(row)) as file:
            rate, start = file.samplerate, int(utterance.offset * file.samplerate)
            gauge = Gauge(file.channels, rate, FULL_SCALE_OF.get(file.subtype, FULL_SCALE))
            kind = f"{file.format} {file.subtype}"
            stated_end = start + int(utterance.duration * rate) if utterance.duration else file.frames
            end = true_end(file, stated_end)
        samples, _ = read_usable(
            table.open(row),
            offset=utterance.offset,
            duration=utterance.duration,
            channel_selector=self.channel_selector,
            allow_silent=self.noise,
            watch=gauge,
        )
        return Measures(
            seconds=gauge.count / rate,
            whole_seconds=max(gauge.count, end - start) / rate,
            sample_rate=rate,
            channels=len(gauge.total),
            format=kind,
            dc=gauge.dc,
            level_db=gauge.level_db,
            power_db=mean_power_db(samples) if self.noise else math.nan,
            clipped=gauge.clipped / (gauge.count * len(gauge.total)),
            content=short_hash(gauge.digest),
        )


class Gauge:
    """Measures audio block by block, (n, channels) each, so that a long file takes no memory for it.

    count: samples per channel. clipped: samples of all channels at `full_scale` or beyond.
    digest: hash of rate, channels and samples.
    """

    def __init__(self, channels: int, sample_rate: int, full_scale: float):
        self.full_scale = full_scale
        self.count, self.clipped = 0, 0
        self.total, self.squares = np.zeros(channels), np.zeros(channels)
        self.digest = new_hash(f"{sample_rate} {channels}".encode())

    def __call__(self, block: np.ndarray) -> None:
        for start in range(0, len(block), CACHED_FRAMES):
            self.add(np.ascontiguousarray(block[start : start + CACHED_FRAMES].T, dtype=np.float64))
        self.digest.update(np.ascontiguousarray(block))

    def add(self, channels: np.ndarray) -> None:
        """(channels, n); this way round numpy sums a stereo file seven times faster."""
        peak = max(float(channels.max()), -float(channels.min()))
        if not math.isfinite(peak):  # in a channel that isn't selected; else the line is rejected
            channels = np.nan_to_num(channels, nan=0.0, posinf=0.0, neginf=0.0)
            peak = float(np.abs(channels).max())
        self.count += channels.shape[1]
        self.total += channels.sum(axis=1)
        self.squares += np.einsum("cn,cn->c", channels, channels)
        if peak >= self.full_scale:
            self.clipped += int(np.count_nonzero(np.abs(channels) >= self.full_scale))

    @property
    def dc(self) -> float:
        """Mean of the channel with the largest one."""
        mean = self.total / self.count
        return float(mean[np.abs(mean).argmax()])

    @property
    def level_db(self) -> float:
        """RMS around the mean, of the loudest channel."""
        return decibels(float((self.squares / self.count - (self.total / self.count) ** 2).max()))


def mean_power_db(samples: np.ndarray) -> float:
    """Of (N,) samples, summed as float64 without a copy of them."""
    return decibels(float(np.einsum("n,n->", samples, samples, dtype=np.float64)) / len(samples))


def decibels(power: float) -> float:
    return 10 * math.log10(power) if power > 0 else -math.inf


def listed(utterance: Utterance, status: int, reason: str = "", detail: str = "") -> CheckedLine:
    """What the manifest alone says about a line."""
    stated = math.nan if utterance.duration is None else utterance.duration
    path = os.path.normcase(os.path.normpath(utterance.audio_filepath))
    name = f"{utterance.manifest}\n{path}\n{utterance.offset}\n{utterance.duration}"
    key = short_hash(new_hash(name.encode("utf-8", "surrogatepass")))
    return CheckedLine(status, utterance.manifest, utterance.line, stated, reason, detail, key)


def new_hash(start: bytes) -> "hashlib._Hash":
    """SHA-1: the fastest of hashlib's where the processor helps; 64 bits of it tell a million files apart."""
    return hashlib.sha1(start, usedforsecurity=False)


def short_hash(digest: "hashlib._Hash") -> int:
    return int.from_bytes(digest.digest()[:8], "little")


def true_end(file: soundfile.SoundFile, stated_end: int) -> int:
    """Frames of a file that goes on behind `stated_end`, if the last that its header claims is there; else 0."""
    tail = min(int(TAIL_SECONDS * file.samplerate), file.frames - stated_end)
    if tail <= 0 or file.frames == UNKNOWN_FRAMES or not file.can_seek():
        return 0
    try:
        file.seek(file.frames - tail)
        return file.frames if len(file.read(tail)) == tail else 0
    except soundfile.SoundFileError:  # a file cut behind this piece
        return 0
