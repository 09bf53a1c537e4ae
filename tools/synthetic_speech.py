"""Speech-like audio from numpy alone: talkers say sentences of a small invented language.

A glottal pulse train and white noise (the source) go through moving formants (the filter). What is said follows a
lexicon and a word chain, so a hidden piece of an utterance can be guessed from what stands around it: that is what
a masked model needs in order to learn anything, and what noise can't give it.

Letters: N samples, C control frames (8 ms), K frequency bins.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

CONTROL_SECONDS = 0.008  # how often the vocal tract may change
WINDOW_FRAMES = 4        # Hann window of the filter bank, in control frames: overlapping windows add up to 2
FFT_FRAMES = 6           # room for the ringing of the formants on either side of the window
UPPER_FORMANTS_HZ = (3500.0, 4500.0)
FORMANT_WIDTHS_HZ = (90.0, 110.0, 170.0, 250.0, 350.0)
FORMANT_LEVELS = (1.0, 0.55, 0.35, 0.2, 0.1)


@dataclass(frozen=True)
class Sound:
    """One steady target of the vocal tract; the synthesiser moves smoothly from each to the next."""

    seconds: float
    formants_hz: tuple[float, float, float]
    voicing: float = 0.0            # level of the glottal pulses
    friction: float = 0.0           # level of the noise
    friction_hz: float = 1500.0     # where the noise is loudest
    friction_width_hz: float = 2000.0


def _vowel(f1: float, f2: float, f3: float) -> tuple[Sound, ...]:
    return (Sound(0.16, (f1, f2, f3), voicing=1.0),)


def _sonorant(f1: float, f2: float, f3: float, voicing: float) -> tuple[Sound, ...]:
    return (Sound(0.09, (f1, f2, f3), voicing=voicing),)


def _fricative(friction_hz: float, width_hz: float, level: float, voicing: float = 0.0) -> tuple[Sound, ...]:
    return (Sound(0.11, (350.0, 1600.0, 2600.0), voicing, level, friction_hz, width_hz),)


def _stop(burst_hz: float, f2: float, voiced: bool) -> tuple[Sound, ...]:
    """Closure, then a short burst."""
    closure = Sound(0.06, (250.0, f2, 2500.0), voicing=0.12 if voiced else 0.0)
    burst = Sound(0.016 if voiced else 0.036, (350.0, f2, 2500.0), 0.0, 0.7, burst_hz, 1200.0)
    return closure, burst


SOUNDS: dict[str, tuple[Sound, ...]] = {
    "a": _vowel(750, 1250, 2550),
    "e": _vowel(480, 1900, 2550),
    "i": _vowel(290, 2300, 3000),
    "o": _vowel(480, 880, 2500),
    "u": _vowel(310, 780, 2300),
    "m": _sonorant(260, 1000, 2200, 0.45),
    "n": _sonorant(270, 1500, 2500, 0.45),
    "l": _sonorant(370, 1150, 2750, 0.6),
    "r": _sonorant(400, 1200, 1650, 0.6),
    "s": _fricative(5800, 1800, 0.5),
    "c": _fricative(3000, 1400, 0.6),              # as in "ship"
    "f": _fricative(4000, 7000, 0.18),
    "z": _fricative(5600, 1800, 0.3, voicing=0.3),
    "p": _stop(900, 900, voiced=False),
    "t": _stop(4200, 1800, voiced=False),
    "k": _stop(2000, 2100, voiced=False),
    "b": _stop(900, 900, voiced=True),
    "d": _stop(4000, 1800, voiced=True),
    "g": _stop(2000, 2100, voiced=True),
}
PAUSE_FORMANTS_HZ = (500.0, 1500.0, 2500.0)

WORDS = (
    "mano", "sila", "turo", "keba", "lumi", "ranso", "cape", "dofi",
    "nuzi", "pelo", "gami", "soke", "bira", "fuce", "teno", "zalu",
)  # fmt: skip
NEXT_WORD = ((1, 0.7), (6, 0.2), (11, 0.1))  # (how far on in WORDS, cyclically; probability)


@dataclass(frozen=True)
class Talker:
    name: str
    pitch_hz: float
    formant_scale: float  # shorter vocal tract: above 1
    breathiness: float
    speed: float


def make_talker(name: str, rng: np.random.Generator) -> Talker:
    """High voices come with short vocal tracts more often than not."""
    height = rng.uniform(0.0, 1.0)
    return Talker(
        name=name,
        pitch_hz=85.0 * 2.7**height,
        formant_scale=0.92 + 0.2 * height + rng.uniform(-0.03, 0.03),
        breathiness=rng.uniform(0.02, 0.12),
        speed=rng.uniform(0.9, 1.15),
    )


def say_something(talker: Talker, seconds: float, sample_rate: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A sentence that fills `seconds`, and its words.

    Returns (N,) float32 in [-1, 1] with N = round(seconds * sample_rate), and the text.
    """
    words, sounds = plan_sentence(talker, seconds, rng)
    num_samples = round(seconds * sample_rate)
    speech = speak(talker, sounds, num_samples, sample_rate, rng)
    speech *= rng.uniform(0.3, 0.8) / np.abs(speech).max()
    room = rng.standard_normal(num_samples) * 10 ** (rng.uniform(-70.0, -60.0) / 20)  # no recording is quite silent
    return np.clip(speech + room, -1.0, 1.0).astype(np.float32), " ".join(words)


def plan_sentence(talker: Talker, seconds: float, rng: np.random.Generator) -> tuple[list[str], list[Sound]]:
    """Words from the chain, a pause every few words, the whole stretched a little so that it fills `seconds`."""
    words: list[str] = []
    sounds = [_pause(rng.uniform(0.1, 0.3))]
    left = seconds - sounds[0].seconds - 0.15
    steps, probabilities = zip(*NEXT_WORD)
    index = int(rng.integers(len(WORDS)))
    until_pause = int(rng.integers(3, 7))
    while left > 0.0:
        spoken = [_vary(sound, talker, rng) for letter in WORDS[index] for sound in SOUNDS[letter]]
        left -= sum(sound.seconds for sound in spoken)
        if words and left < 0.0:
            break
        words.append(WORDS[index])
        sounds += spoken
        index = (index + int(rng.choice(steps, p=probabilities))) % len(WORDS)
        until_pause -= 1
        if until_pause == 0:
            sounds.append(_pause(rng.uniform(0.2, 0.4)))
            left -= sounds[-1].seconds
            until_pause = int(rng.integers(3, 7))
    sounds.append(_pause(0.15))
    stretch = seconds / sum(sound.seconds for sound in sounds)
    return words, [replace(sound, seconds=sound.seconds * stretch) for sound in sounds]


def speak(
    talker: Talker, sounds: list[Sound], num_samples: int, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """Source and filter; returns (N,) at no particular level."""
    hop = round(CONTROL_SECONDS * sample_rate)
    num_frames = -(-num_samples // hop) + WINDOW_FRAMES
    track = control_track(sounds, num_frames)                                          # (C, 7)
    formants_hz, voicing, friction, friction_hz, friction_width_hz = np.split(track, [3, 4, 5, 6], axis=1)
    pulses = glottal_pulses(pitch_contour(talker, num_frames, rng), hop, rng)            # (N',)
    breath = rng.standard_normal(len(pulses))

    bins_hz = np.fft.rfftfreq(FFT_FRAMES * hop, 1 / sample_rate)                         # (K,)
    formants = formant_envelope(formants_hz * talker.formant_scale, bins_hz)             # (C, K)
    hiss = _resonance(bins_hz, friction_hz * talker.formant_scale, friction_width_hz)    # (C, K)
    filtered = filter_moving(pulses, formants * voicing, hop)
    filtered += 0.12 * filter_moving(breath, hiss * friction + formants * voicing * talker.breathiness, hop)
    return filtered[:num_samples]


def control_track(sounds: list[Sound], num_frames: int) -> np.ndarray:
    """Targets held for their time, then smoothed: (C, 7) formants, voicing, friction, its centre and width."""
    targets = np.array(
        [(*s.formants_hz, s.voicing, s.friction, s.friction_hz, s.friction_width_hz) for s in sounds], dtype=float
    )
    ends = np.cumsum([sound.seconds for sound in sounds])
    held = targets[np.searchsorted(ends, np.arange(num_frames) * CONTROL_SECONDS, side="right").clip(max=len(ends) - 1)]
    formants = _smooth(held[:, :3], 9)        # the tongue takes some 70 ms
    return np.concatenate([formants, _smooth(held[:, 3:5], 3), held[:, 5:]], axis=1)


def pitch_contour(talker: Talker, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """(C,) Hz: falls slowly, rises and falls with the phrase, and trembles a little."""
    time = np.linspace(0.0, 1.0, num_frames)
    melody = sum(
        rng.uniform(0.02, 0.08) * np.sin(2 * np.pi * (cycles * time + rng.uniform())) for cycles in (2.0, 5.0, 11.0)
    )
    tremble = 0.01 * rng.standard_normal(num_frames)
    return talker.pitch_hz * (1.1 - 0.2 * time + melody + tremble)


def glottal_pulses(pitch_hz: np.ndarray, hop: int, rng: np.random.Generator) -> np.ndarray:
    """(C,) -> (C * hop,): slope of a Rosenberg pulse, slow to open and quick to close, each cycle of its own height."""
    phase = np.cumsum(np.repeat(pitch_hz * CONTROL_SECONDS / hop, hop))
    cycle, within = np.divmod(phase, 1.0)
    opening, closing = 0.4, 0.16
    flow = np.where(
        within < opening,
        0.5 - 0.5 * np.cos(np.pi * within / opening),
        np.cos(0.5 * np.pi * np.minimum((within - opening) / closing, 1.0)),
    )
    height = 1.0 + 0.05 * rng.standard_normal(int(cycle[-1]) + 1)
    return np.diff(flow * height[cycle.astype(int)], prepend=0.0) * 8.0


def formant_envelope(formants_hz: np.ndarray, bins_hz: np.ndarray) -> np.ndarray:
    """(C, 3), (K,) -> (C, K): resonances in parallel, the upper ones fixed."""
    scale = formants_hz[:, 2:] / formants_hz[:, 2:].mean()
    upper = np.broadcast_to(UPPER_FORMANTS_HZ, (len(formants_hz), len(UPPER_FORMANTS_HZ))) * np.sqrt(scale)
    centres = np.concatenate([formants_hz, upper], axis=1)                               # (C, 5)
    return sum(
        level * _resonance(bins_hz, centres[:, i : i + 1], width)
        for i, (level, width) in enumerate(zip(FORMANT_LEVELS, FORMANT_WIDTHS_HZ))
    )


def filter_moving(source: np.ndarray, envelope: np.ndarray, hop: int) -> np.ndarray:
    """Give each window of `source` the magnitudes of its row of `envelope` and overlap-add the windows.

    source: (N',); envelope: (C, K) over rfft bins of FFT_FRAMES * hop samples. Returns (C * hop,), zero phase.
    """
    size = FFT_FRAMES * hop
    margin = (FFT_FRAMES - WINDOW_FRAMES) // 2 * hop                   # room for ringing on either side
    window = np.zeros(size)
    window[margin : size - margin] = np.hanning(WINDOW_FRAMES * hop + 1)[:-1] / 2
    num_frames = len(envelope)
    frames = sliding_window_view(np.pad(source, (size // 2, size)), size)[::hop][:num_frames]      # (C, size)
    shaped = np.fft.irfft(np.fft.rfft(frames * window) * envelope, n=size)
    blocks = shaped.reshape(num_frames, FFT_FRAMES, hop)
    added = np.zeros((num_frames + FFT_FRAMES, hop))
    for i in range(FFT_FRAMES):
        added[i : i + num_frames] += blocks[:, i]
    start = size // 2
    return added.ravel()[start : start + num_frames * hop]


def _resonance(bins_hz: np.ndarray, centre_hz: np.ndarray, width_hz: float | np.ndarray) -> np.ndarray:
    return 1.0 / np.sqrt(1.0 + ((bins_hz - centre_hz) / (0.5 * width_hz)) ** 2)


def _smooth(track: np.ndarray, num_frames: int) -> np.ndarray:
    """Moving average over `num_frames` (odd) control frames, edges held: (C, X) -> (C, X)."""
    padded = np.pad(track, ((num_frames // 2, num_frames // 2), (0, 0)), mode="edge")
    return sliding_window_view(padded, num_frames, axis=0).mean(axis=-1)


def _pause(seconds: float) -> Sound:
    return Sound(seconds, PAUSE_FORMANTS_HZ)


def _vary(sound: Sound, talker: Talker, rng: np.random.Generator) -> Sound:
    return replace(sound, seconds=sound.seconds / talker.speed * rng.uniform(0.9, 1.1))
