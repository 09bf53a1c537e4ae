"""Augmentation of the clean audio before noise is mixed in: the `augmentor` section, with NeMo's keys.

Distributions and formulas are NeMo 3.0.0's (`asr/parts/preprocessing/perturb.py`). What is changed here changes the
targets, too. For a room around the noisy audio only, see `rir_manifest` (`reverberation.py`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from parts.batch_types import BadSample
from parts.preprocessing.drawn_audio import draw_audio, rejected_lines
from parts.preprocessing.manifest import read_manifests
from parts.preprocessing.reverberation import convolve, draw_impulse, strongest_sample
from parts.preprocessing.segment import load_audio, resample
from parts.preprocessing.utterances import Utterance, UtteranceTable
from utils.config_check import is_number, is_share, nearest, refuse_unknown_keys, refuse_unless_neutral
from utils.logging import info_once


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """One way of changing audio. The fields of a subclass are NeMo's arguments, at NeMo's defaults.

    sample_rate: of the audio, in Hz.  path: where this stands in the config, for messages.
    """

    sample_rate: int
    path: str

    @property
    def rejected_lines(self) -> tuple[BadSample, ...]:
        """Lines of a manifest of its own that name no usable piece of audio."""
        return ()

    def __call__(self, samples: np.ndarray, rng: np.random.Generator, rejected: list[BadSample] | None) -> np.ndarray:
        """(N,) float32 -> (M,). rejected: gets the files that can't be used."""
        raise NotImplementedError

    def check_range(self, lowest: str, highest: str) -> None:
        """Raise ValueError unless these two fields are numbers in this order."""
        low, high = self.check_number(lowest), self.check_number(highest)
        if low > high:
            raise ValueError(f"{self.path}.{lowest}={low} is above {highest}={high}")

    def check_number(self, name: str) -> float:
        value = getattr(self, name)
        if not (is_number(value) and math.isfinite(value)):
            raise ValueError(f"{self.path}.{name}={value!r} is not a number")
        return value


@dataclass(frozen=True, kw_only=True)
class Gain(Perturbation):
    """Louder or softer by a number of dB."""

    min_gain_dbfs: float = -10
    max_gain_dbfs: float = 10

    def __post_init__(self):
        self.check_range("min_gain_dbfs", "max_gain_dbfs")

    def __call__(self, samples: np.ndarray, rng: np.random.Generator, rejected: list[BadSample] | None) -> np.ndarray:
        return amplify(samples, rng.uniform(self.min_gain_dbfs, self.max_gain_dbfs))


@dataclass(frozen=True, kw_only=True)
class Speed(Perturbation):
    """Resampling by a rate, played at the old sample rate: a rate above 1 gives more samples, slower and lower.

    sr: the data's sample rate; may be left out.
    resample_type: soxr (HQ) resamples, whichever of NeMo's names is given. NeMo 3.0.0 hands "kaiser_..." to resampy,
        without which it skips the augmentation, and the others to scipy's FFT.
    num_rates: so many evenly spaced rates from the lowest to the highest; 0 or less: any rate between them.
    """

    sr: int | None = None
    resample_type: str = "kaiser_best"
    min_speed_rate: float = 0.9
    max_speed_rate: float = 1.1
    num_rates: int = 5

    def __post_init__(self):
        self.check_range("min_speed_rate", "max_speed_rate")
        if self.min_speed_rate <= 0:
            raise ValueError(f"{self.path}.min_speed_rate={self.min_speed_rate} must be above 0")
        if self.sr not in (None, self.sample_rate):
            raise ValueError(f"{self.path}.sr={self.sr!r} is not the sample_rate={self.sample_rate}; leave it out")
        if self.resample_type not in RESAMPLE_TYPES:
            near = nearest(self.resample_type, RESAMPLE_TYPES)
            raise ValueError(f"{self.path}.resample_type={self.resample_type!r} is not one of NeMo's{near}")
        if type(self.num_rates) is not int:
            raise ValueError(f"{self.path}.num_rates={self.num_rates!r} is not a whole number")
        info_once(f"{self.path}: resampled by soxr (HQ), for every resample_type")

    def __call__(self, samples: np.ndarray, rng: np.random.Generator, rejected: list[BadSample] | None) -> np.ndarray:
        if self.num_rates > 0:
            rate = rng.choice(np.linspace(self.min_speed_rate, self.max_speed_rate, self.num_rates))
        else:
            rate = rng.uniform(self.min_speed_rate, self.max_speed_rate)
        return resample(samples, self.sample_rate, int(self.sample_rate * rate))


RESAMPLE_TYPES = ("kaiser_best", "kaiser_fast", "fft", "scipy")


@dataclass(frozen=True, kw_only=True)
class WhiteNoise(Perturbation):
    """White noise at a whole number of dB of full scale, from min_level up to, not including, max_level."""

    min_level: int = -90
    max_level: int = -46

    def __post_init__(self):
        self.check_range("min_level", "max_level")
        for name in ("min_level", "max_level"):
            if getattr(self, name) % 1:
                raise ValueError(f"{self.path}.{name}={getattr(self, name)} is not a whole number of dB; round it")

    def __call__(self, samples: np.ndarray, rng: np.random.Generator, rejected: list[BadSample] | None) -> np.ndarray:
        return samples + white_noise(len(samples), int(self.min_level), int(self.max_level), rng)


@dataclass(frozen=True, kw_only=True)
class Shift(Perturbation):
    """Earlier (positive) or later (negative) by some milliseconds; the length stays, zeros fill the gap."""

    min_shift_ms: float = -5.0
    max_shift_ms: float = 5.0

    def __post_init__(self):
        self.check_range("min_shift_ms", "max_shift_ms")

    def __call__(self, samples: np.ndarray, rng: np.random.Generator, rejected: list[BadSample] | None) -> np.ndarray:
        return shift_earlier(samples, rng.uniform(self.min_shift_ms, self.max_shift_ms), self.sample_rate)


@dataclass(frozen=True, kw_only=True)
class Noise(Perturbation):
    """A file of a noise manifest at a drawn signal-to-noise ratio: a random piece, or all of it at a random place.

    manifest_path: a manifest, or several.  max_gain_db: the noise is amplified by no more than this.
    The ratio is that of the mean powers of the audio and of the whole noise file. Several channels are averaged
    (NeMo 3.0.0 raises for them); a silent or unreadable file is replaced by another.
    """

    manifest_path: str | Sequence[str] | None = None
    min_snr_db: float = 10
    max_snr_db: float = 50
    max_gain_db: float = 300.0
    files: UtteranceTable = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        self.check_range("min_snr_db", "max_snr_db")
        self.check_number("max_gain_db")
        object.__setattr__(
            self, "files", read_manifests(self.manifest_path, f"{self.path}.manifest_path", "noise manifest")
        )

    def __call__(self, samples: np.ndarray, rng: np.random.Generator, rejected: list[BadSample] | None) -> np.ndarray:
        noise = draw_audio(self.files, self._load, rng, kind="noise", rejected=rejected)
        if noise is None:
            return samples
        snr_db = rng.uniform(self.min_snr_db, self.max_snr_db)
        start = int(rng.integers(abs(len(noise) - len(samples)) + 1))
        return add_noise(samples, noise, start, snr_db, self.max_gain_db)

    @property
    def rejected_lines(self) -> tuple[BadSample, ...]:
        return rejected_lines(self.files, "noise")

    def _load(self, entry: Utterance) -> np.ndarray:
        return load_audio(entry.audio_filepath, self.sample_rate, offset=entry.offset, duration=entry.duration)


@dataclass(frozen=True, kw_only=True)
class Impulse(Perturbation):
    """A room impulse response, convolved with the clean audio; the result is scaled to a peak of 1.

    manifest_path: a manifest, or several. Of several channels one is drawn (NeMo 3.0.0 raises for them).
    normalize_impulse: subtract the impulse's mean and scale its peak to 1, first.
    shift_impulse: remove the delay of its strongest sample.
    The targets hear the room, too, as in NeMo; with `rir_manifest` they don't.
    """

    manifest_path: str | Sequence[str] | None = None
    normalize_impulse: bool = False
    shift_impulse: bool = False
    files: UtteranceTable = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        for name in ("normalize_impulse", "shift_impulse"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{self.path}.{name}={getattr(self, name)!r} is not true or false")
        object.__setattr__(
            self,
            "files",
            read_manifests(self.manifest_path, f"{self.path}.manifest_path", "room impulse response manifest"),
        )

    def __call__(self, samples: np.ndarray, rng: np.random.Generator, rejected: list[BadSample] | None) -> np.ndarray:
        impulse = draw_impulse(self.files, self.sample_rate, rng, rejected)
        if impulse is None:
            return samples
        return reverberate(samples, impulse, self.normalize_impulse, self.shift_impulse)

    @property
    def rejected_lines(self) -> tuple[BadSample, ...]:
        return rejected_lines(self.files, "rir")


def amplify(samples: np.ndarray, gain_db: float) -> np.ndarray:
    return samples * 10.0 ** (gain_db / 20)


def white_noise(num_samples: int, min_db: int, max_db: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise (N,) float32 at a whole number of dB drawn from [min_db, max_db)."""
    level_db = rng.integers(min_db, max(max_db, min_db + 1))
    return (rng.standard_normal(num_samples) * 10.0 ** (level_db / 20)).astype(np.float32)


def shift_earlier(samples: np.ndarray, shift_ms: float, sample_rate: int) -> np.ndarray:
    """(N,) -> (N,), `shift_ms` earlier, at most by all of it; later for a negative shift."""
    num_samples = len(samples)
    shift = max(-num_samples, min(num_samples, int(shift_ms * sample_rate // 1000)))
    shifted = np.zeros_like(samples)
    if shift > 0:
        shifted[: num_samples - shift] = samples[shift:]
    else:
        shifted[-shift:] = samples[: num_samples + shift]
    return shifted


def add_noise(samples: np.ndarray, noise: np.ndarray, start: int, snr_db: float, max_gain_db: float) -> np.ndarray:
    """(N,) with noise (M,) -> (N,): the noise from `start` on, or, where it is shorter, all of it at `start`."""
    power, noise_power = (np.square(x, dtype=np.float64).mean() for x in (samples, noise))
    factor = min((power / noise_power) ** 0.5 * 10.0 ** (-snr_db / 20), 10.0 ** (max_gain_db / 20))
    if len(noise) >= len(samples):
        return samples + factor * noise[start : start + len(samples)]
    noisy = samples.copy()
    noisy[start : start + len(noise)] += factor * noise
    return noisy


def reverberate(samples: np.ndarray, impulse: np.ndarray, normalize: bool, shift: bool) -> np.ndarray:
    """(N,) with (M,) -> (N,) with a peak of 1; silence stays as it is."""
    if normalize:
        impulse = impulse - impulse.mean()
        impulse = impulse / np.abs(impulse).max()
    wet = convolve(samples, impulse, skip=strongest_sample(impulse) if shift else 0)
    peak = np.abs(wet).max()
    return wet / peak if samples.any() and peak > 0 else samples


class Augmentor:
    """Perturbations in the order of the config, each applied with its own probability; none: nothing happens."""

    def __init__(self, perturbations: Sequence[tuple[float, Perturbation]] = ()):
        self.perturbations = tuple(perturbations)

    @property
    def rejected_lines(self) -> tuple[BadSample, ...]:
        """Lines of the manifests of noise and impulse responses that name no usable piece of audio."""
        return tuple(bad for _, perturb in self.perturbations for bad in perturb.rejected_lines)

    def __call__(
        self, samples: np.ndarray, rng: np.random.Generator, rejected: list[BadSample] | None = None
    ) -> np.ndarray:
        """(N,) float32 -> (M,) float32; only `speed` changes the length. What was given isn't written to.

        rejected: gets the noise files and impulse responses that can't be used; another one replaces each.
        """
        for prob, perturb in self.perturbations:
            if rng.random() < prob:
                samples = perturb(samples, rng, rejected).astype(np.float32, copy=False)
        return samples


AUGMENTATIONS: dict[str, type[Perturbation]] = {
    "gain": Gain,
    "impulse": Impulse,
    "noise": Noise,
    "shift": Shift,
    "speed": Speed,
    "white_noise": WhiteNoise,
}
NOT_SUPPORTED: dict[str, str] = {  # NeMo's others, and the name one would expect -> what to do instead
    "noise_norm": "use noise, or normalize_db and noise_manifest of the data section",
    "random_segment": "put offset and duration into the manifest, a line per segment",
    "rir": "NeMo's name of it is impulse; rir_manifest of the data section leaves the targets dry",
    "rir_noise_aug": "use impulse and noise",
    "silence": "pad the files, or set min_audio_len_secs and pad_audio_mode of the data section",
    "time_stretch": "use speed",
    "transcode_aug": "transcode the files beforehand",
}
NO_EFFECT: dict[str, tuple[tuple, str]] = {  # NeMo's arguments that are taken at NeMo's defaults only -> those, why
    "rng": ((None,), "is not supported: every draw follows from the data section's seed"),
    "audio_tar_filepaths": ((None,), "is not supported: name a manifest of plain files"),
    "shuffle_n": ((100, 128), "has no effect without tar files"),
    "orig_sr": ((16000,), "has no effect: every file is resampled to the data's sample_rate"),
}
NO_EFFECT_IN: dict[str, tuple[str, ...]] = {
    "noise": ("audio_tar_filepaths", "shuffle_n", "orig_sr"),
    "impulse": ("audio_tar_filepaths", "shuffle_n"),
}


def build_augmentor(config: Mapping | None, sample_rate: int, path: str) -> Augmentor:
    """The `augmentor` section: name -> {prob: ..., arguments of that augmentation as in NeMo}.

    path: of the section, such as model.train_ds.augmentor; every message names it.
    Raises ValueError for a name, an argument or a value that isn't supported.
    """
    config = {} if config is None else config
    if not isinstance(config, Mapping):
        raise ValueError(f"{path}={config!r} is not a section such as {{gain: {{prob: 0.5}}}}, or null")
    return Augmentor([build_perturbation(name, config[name], sample_rate, f"{path}.{name}") for name in config])


def build_perturbation(name: str, options: object, sample_rate: int, path: str) -> tuple[float, Perturbation]:
    """(probability, perturbation) of one entry of the section."""
    if name in NOT_SUPPORTED:
        raise ValueError(f"{path} is not supported; {NOT_SUPPORTED[name]}")
    if name not in AUGMENTATIONS:
        raise ValueError(f"{path} is not a known augmentation{nearest(name, AUGMENTATIONS)}")
    if not isinstance(options, Mapping):
        raise ValueError(f"{path}={options!r} is not a section such as {{prob: 0.5}}")
    kind = AUGMENTATIONS[name]
    own = [item.name for item in fields(kind) if item.init and item.name not in ("sample_rate", "path")]
    without_effect = ["rng", *NO_EFFECT_IN.get(name, ())]
    refuse_unknown_keys(options, ["prob", *own, *without_effect], path)
    for key in without_effect:
        neutral, why = NO_EFFECT[key]
        refuse_unless_neutral(options, {key: neutral}, path, why)
    if not is_share(options.get("prob")):
        raise ValueError(f"{path}.prob={options.get('prob')!r} is not a share in [0, 1]; set it")
    arguments = {key: options[key] for key in own if key in options}
    return options["prob"], kind(sample_rate=sample_rate, path=path, **arguments)
