"""Samples of an audio file as it is: anything that libsndfile reads, at its own rate and with its channels.

soundfile is imported on first use: importing a model must not wait for it.
"""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    import soundfile

AudioSource = str | os.PathLike | BinaryIO  # a file, or its bytes where it is a member of a tar

BLOCK_SAMPLES = 2**20  # of all channels together; what a header claims is believed only this far ahead
UNKNOWN_FRAMES = 2**63 - 1  # what libsndfile says of a FLAC that was written to a pipe
LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000  # Hz; at 1 Hz a second of samples would become four hours of audio


REASONS = ("unreadable", "empty", "non_finite", "out_of_scale", "silent", "too_short", "bad_entry")


class BadAudio(ValueError):
    """Audio that can't be used. `reason` is one of REASONS, to count by; the message is the detail."""

    def __init__(self, reason: str, detail: str):
        assert reason in REASONS, reason
        super().__init__(detail)
        self.reason = reason


def decode(
    source: AudioSource,
    offset: float = 0.0,
    duration: float | None = None,
    mix: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, int]:
    """A piece of a file and its rate in Hz. Seeks, so that a late piece is cheap; takes no more memory than the piece.

    offset, duration: seconds, rounded down to samples as NeMo does; no duration, or 0, means to the end of the file.
    mix: (n, channels) -> (n,) or (n, fewer): applied block by block, so that many channels never stand in memory.
    Returns (N, channels) float32, or what `mix` makes of it; N is less than `duration` where the file ends before.
    Raises BadAudio: `unreadable`, `empty`, or `bad_entry` for an offset that isn't inside the file.
    """
    import soundfile

    if not offset >= 0 or not (duration is None or duration >= 0):
        raise BadAudio("bad_entry", f"offset {offset} s, duration {duration} s: neither may be negative")
    with open_audio(source) as file:
        start = int(min(offset * file.samplerate, file.frames))
        num_frames = file.frames - start
        if duration:
            num_frames = int(min(duration * file.samplerate, num_frames))
        if start and start >= file.frames:
            raise BadAudio("bad_entry", f"offset {offset} s is beyond the end at {file.frames / file.samplerate:.3f} s")
        try:
            samples = collect(blocks(file, start, num_frames), num_frames, mix)
        except (
            soundfile.SoundFileError,  # damaged or cut FLAC: opens, but does not decode
            MemoryError,  # what is really there is more than this machine holds
        ) as error:
            raise BadAudio("unreadable", describe(error)) from error
        if len(samples) == 0:
            reason = "bad_entry" if start and num_frames else "empty"
            raise BadAudio(reason, f"no samples {offset} s from the start" if start else "no samples")
        return samples, file.samplerate


def collect(
    pieces: Iterator[np.ndarray], num_frames: int, mix: Callable[[np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """Blocks (n, channels) one after another, (N, ...) float32. num_frames: how many the header promises.

    Memory grows with what has really been decoded: `num_frames` may be a lie.
    """
    samples = np.empty(0, dtype=np.float32)
    filled = 0
    for block in pieces:
        mixed = block if mix is None else mix(block)
        if filled == 0:
            believed = min(num_frames, max(len(block), BLOCK_SAMPLES // mixed[0].size))
            samples = np.empty((believed, *mixed.shape[1:]), dtype=np.float32)
        elif filled + len(mixed) > len(samples):
            samples.resize((min(num_frames, 2 * len(samples)), *samples.shape[1:]), refcheck=False)
        samples[filled : filled + len(mixed)] = mixed
        filled += len(mixed)
    if filled < len(samples):
        samples.resize((filled, *samples.shape[1:]), refcheck=False)
    return samples


def blocks(file: "soundfile.SoundFile", start: int, num_frames: int) -> Iterator[np.ndarray]:
    """Frames `start` to `start + num_frames` as (n, channels) float32, up to where the file really ends."""
    position = SEEK_POINTS.get(file.subtype, exactly)(file, start) if start and file.can_seek() else 0
    if position:
        file.seek(position)
    longest = max(1, BLOCK_SAMPLES // file.channels)
    end = start + num_frames
    while position < end:
        wanted = min(end - position, longest)
        block = file.read(wanted, dtype="float32", always_2d=True)
        if position + len(block) > start:
            yield block[max(0, start - position) :]
        if len(block) < wanted:
            return
        position += wanted


def exactly(file: "soundfile.SoundFile", start: int) -> int:
    return start


def before_the_reservoir(file: "soundfile.SoundFile", start: int) -> int:
    """An MP3 frame takes bits from earlier ones; libmpg123 that hasn't read them gives errors of up to 0.05."""
    return max(0, start - file.samplerate // 2)


def before_the_last_page(file: "soundfile.SoundFile", start: int) -> int:
    """In the last page of an Ogg Vorbis file, at most 255 packets, libsndfile 1.2.2 seeks up to 20 ms wrong."""
    return max(0, min(start, file.frames - 255 * 1024))


# by subtype: where decoding has to begin for the same samples as from the start of the file. (An Opus decoder that
# begins in the middle converges instead: 0.004 is the largest difference we saw, after libsndfile's 80 ms of lead.)
SEEK_POINTS: dict[str, Callable[["soundfile.SoundFile", int], int]] = {
    "MPEG_LAYER_I": before_the_reservoir,
    "MPEG_LAYER_II": before_the_reservoir,
    "MPEG_LAYER_III": before_the_reservoir,
    "VORBIS": before_the_last_page,
}


def open_audio(source: AudioSource) -> "soundfile.SoundFile":
    """A file with its header read, to be read forward: `read` needs a number of frames. Raises BadAudio."""
    import soundfile

    name = getattr(source, "name", source)
    if isinstance(source, str | os.PathLike):
        name = source = os.fspath(source)
        if not os.path.isfile(source):  # a pipe would be waited for, forever
            raise BadAudio("unreadable", why_no_file(source))
        if os.name == "posix":
            source = os.fsencode(source)  # soundfile itself knows names in UTF-8 only
    if isinstance(name, str) and name.lower().endswith(".raw"):
        raise BadAudio("unreadable", "headerless: a .raw file doesn't say its sample rate")
    try:
        file = forward_reader()(source)
    except soundfile.SoundFileError as error:  # text, zero bytes, a header without rate or channels
        raise BadAudio("unreadable", describe(error)) from error
    if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
        file.close()
        raise BadAudio("unreadable", f"the header says {file.samplerate} Hz, which is no rate of audio")
    return file


def why_no_file(path: str) -> str:
    if os.path.exists(path):
        return "not a file, but a folder or device"
    if PureWindowsPath(path).is_absolute() and os.name != "nt":
        return "no such file: a path of a Windows machine; write where the file is on this one"
    return "no such file"


@cache
def forward_reader() -> type["soundfile.SoundFile"]:
    """A SoundFile that soundfile doesn't seek in after each read.

    Those seeks, to where the file already is, restart an MP3 decoder, fail where a header claims too much, and make
    soundfile allocate all that `frames` claims.
    """
    import soundfile

    class ForwardReader(soundfile.SoundFile):
        can_seek = soundfile.SoundFile.seekable

        def seekable(self) -> bool:
            return False

    return ForwardReader


def describe(error: Exception) -> str:
    """libsndfile's own words, without the path, which stands beside the detail anyway."""
    return getattr(error, "error_string", None) or str(error) or type(error).__name__


def header_seconds(source: AudioSource) -> float | None:
    """Length of a file as its header states it, in seconds; None when the header can't be read or doesn't say."""
    try:
        with open_audio(source) as file:
            return None if file.frames == UNKNOWN_FRAMES else file.frames / file.samplerate
    except BadAudio:
        return None
