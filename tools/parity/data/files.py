"""Small audio files of many kinds with their manifests, written alike on every machine: a record is compared elsewhere.

soundfile is imported on first use: importing this must not need it.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from tools.parity.cases import Levels

SHORTEST, LONGEST = 13600, 19200  # samples that the bounds of durations leave in, both included
SPOKEN = 18720
CROP = 8000  # samples for which noise is drawn
RAMP_START, RAMP_END = 1, 30001  # a piece of the ramp says by its first sample where it begins
SHORT_NOISE = 4000
PIECE_START, PIECE_SAMPLES = 14000, 16000  # of the ramp
SLOWER = 3 / 4  # rate of a file that has to be resampled


@dataclass(frozen=True)
class Line:
    """A line of a manifest. samples, start: of the file, at its rate; samples None: all of it."""

    file: str
    samples: int | None = None
    start: int = 0


MANIFESTS: dict[str, list[Line]] = {
    "speech": [
        Line("mono.wav"),
        Line("slow.wav"),
        Line("stereo.wav"),
        Line("long.wav", LONGEST, start=4800),
        Line("long.wav", LONGEST + 1),
        Line("long.wav", SHORTEST - 1),
        Line("last.flac", SHORTEST),
    ],
    "silent ends": [Line("silent_ends.wav")],
    "stereo": [Line("stereo.wav")],
    "alike": [Line("mono.wav"), Line("stereo.wav")],
    "short noise": [Line("short.wav")],
    "zero mean": [Line("zero_mean.wav")],
    "noises": [Line("ramp.wav"), Line("short.wav"), Line("silence.wav")],
    "piece of a noise": [Line("ramp.wav", PIECE_SAMPLES, start=PIECE_START)],
}


@dataclass(frozen=True)
class Sound:
    """samples: (N,) or (N, channels) int16; rate: of the file, in units of the rate of the model."""

    samples: np.ndarray
    rate: float = 1.0


@dataclass(frozen=True)
class Files:
    """Audio files and manifests in a folder. sample_rate: of the model, Hz."""

    folder: Path
    sample_rate: int
    sounds: dict[str, Sound] = field(default_factory=dict)

    def manifest(self, name: str) -> str:
        return str(self.folder / f"{name.replace(' ', '_')}.json")

    def seconds(self, samples: int) -> float:
        return samples / self.sample_rate

    def write(self) -> None:
        import soundfile

        self.folder.mkdir(parents=True, exist_ok=True)
        for name, sound in self.sounds.items():
            soundfile.write(self.folder / name, sound.samples, round(sound.rate * self.sample_rate), subtype="PCM_16")
        for name, lines in MANIFESTS.items():
            text = "".join(json.dumps(self.entry(line)) + "\n" for line in lines)
            Path(self.manifest(name)).write_text(text, encoding="utf-8")

    def entry(self, line: Line) -> dict:
        sound = self.sounds[line.file]
        rate = sound.rate * self.sample_rate
        samples = len(sound.samples) if line.samples is None else line.samples
        offset = {"offset": line.start / rate} if line.start else {}
        return {"audio_filepath": line.file, "duration": samples / rate, **offset}


def make_files(folder: Path, sample_rate: int, inputs: Levels) -> Files:
    """Write speech out of a job's `clean` and `noisy`, and noises that need no draw to be told apart."""
    first, last = (utterance(inputs, "clean", row) for row in (0, -1))
    noisy = utterance(inputs, "noisy", 0)
    silence = np.zeros(4800, np.int16)
    sounds = {
        "mono.wav": Sound(np.resize(first, SPOKEN)),
        "slow.wav": Sound(np.resize(last, SHORTEST), SLOWER),
        "stereo.wav": Sound(np.stack([np.resize(noisy, SPOKEN), np.resize(first[::-1], SPOKEN)], axis=1)),
        "long.wav": Sound(np.resize(np.append(last, first), 32000)),
        "last.flac": Sound(np.resize(last, SHORTEST)),
        "silent_ends.wav": Sound(np.concatenate([silence, np.resize(first, SPOKEN), silence, silence])),
        "ramp.wav": Sound(np.arange(RAMP_START, RAMP_END, dtype=np.int16)),
        "short.wav": Sound(sawtooth(SHORT_NOISE)),
        "zero_mean.wav": Sound(zero_mean_noise()),
        "silence.wav": Sound(np.zeros(CROP, np.int16)),
    }
    files = Files(folder, sample_rate, sounds)
    files.write()
    return files


def utterance(inputs: Levels, kind: str, row: int) -> np.ndarray:
    """(N,) int16"""
    lengths: Tensor = inputs["lengths"]
    return inputs[kind][row, : int(lengths[row])].numpy()


def sawtooth(num_samples: int) -> np.ndarray:
    """(N,) int16 around 500"""
    return (np.arange(num_samples) * 7919 % 4001 - 1500).astype(np.int16)


def zero_mean_noise() -> np.ndarray:
    """(CROP,) int16 whose sum is 0 in any precision: each sample is followed by its negative."""
    half = sawtooth(CROP // 2)
    return np.stack([half, -half], axis=1).ravel()
