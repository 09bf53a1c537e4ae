"""Rooms: impulse responses drawn from a manifest, for the noisy branch or (NeMo's `impulse`) for the clean audio."""

from collections.abc import Sequence

import numpy as np

from parts.batch_types import BadSample
from parts.preprocessing.audio_file import decode
from parts.preprocessing.drawn_audio import draw_audio, rejected_lines
from parts.preprocessing.manifest import read_manifests
from parts.preprocessing.segment import refuse_unusable, resample
from parts.preprocessing.utterances import Utterance, UtteranceTable
from utils.config_check import is_share


class RoomImpulseResponses:
    """Puts the noisy speech into a room: what a far microphone hears of the talker and the noise together.

    manifest: impulse responses, at any sample rate. Of several channels, which are microphones of the same room, one
        is drawn: their average is no room. None: nothing happens.
    prob: share of items that are put into a room.
    config_path: of the section that holds `rir_manifest` and `rir_prob`, for messages.

    Meant for the noisy audio after mixing: the targets come from the clean audio, which stays dry. They stay
    aligned, because the strongest path, usually the direct one, is moved to sample 0. The item keeps its length
    (the room's tail beyond it is cut) and its energy, so that the drawn level differences between items stay.
    Peaks may exceed full scale.
    NeMo 3.0.0 has no such option; its `impulse` augmentation reverberates the clean audio (and the targets) as well.
    """

    def __init__(
        self,
        manifest: str | Sequence[str] | None,
        prob: float,
        sample_rate: int,
        config_path: str = "model.train_ds",
    ):
        if not is_share(prob):
            raise ValueError(f"{config_path}.rir_prob={prob!r} is not in [0, 1]")
        self.prob = prob
        self.sample_rate = sample_rate
        self.files = UtteranceTable.of([])
        if manifest is not None:
            self.files = read_manifests(manifest, f"{config_path}.rir_manifest", "room impulse response manifest")

    @property
    def rejected_lines(self) -> tuple[BadSample, ...]:
        """Lines of the manifest that name no usable piece of audio."""
        return rejected_lines(self.files, "rir")

    def __call__(
        self, noisy: np.ndarray, rng: np.random.Generator, rejected: list[BadSample] | None = None
    ) -> np.ndarray:
        """(N,) float32 -> (N,) float32.

        rejected: gets the impulse responses that can't be used, with reasons such as rir_unreadable; each is replaced
            by another one, and after 20 of them in a row the audio stays as it is.
        """
        if not rng.random() < self.prob:
            return noisy
        impulse = draw_impulse(self.files, self.sample_rate, rng, rejected)
        if impulse is None:
            return noisy
        return keep_energy(convolve(noisy, impulse, skip=strongest_sample(impulse)), noisy)


def draw_impulse(
    files: Sequence[Utterance], sample_rate: int, rng: np.random.Generator, rejected: list[BadSample] | None
) -> np.ndarray | None:
    """A random channel of a random line's impulse response, (M,) float32; None when none can be used."""

    def load(entry: Utterance) -> np.ndarray:
        channels, file_rate = decode(entry.audio_filepath, entry.offset, entry.duration)  # (M, channels)
        channel = np.ascontiguousarray(channels[:, int(rng.integers(channels.shape[1]))])
        refuse_unusable(channel)
        return resample(channel, file_rate, sample_rate)

    return draw_audio(files, load, rng, kind="rir", rejected=rejected)


def convolve(samples: np.ndarray, impulse: np.ndarray, skip: int) -> np.ndarray:
    """(N,) with (M,) -> (N,): samples `skip` to `skip` + N of the full convolution. skip: less than M."""
    from scipy.signal import oaconvolve

    return oaconvolve(samples, impulse, mode="full")[skip : skip + len(samples)]


def strongest_sample(impulse: np.ndarray) -> int:
    """Where the strongest path arrives, usually the direct one."""
    return int(np.argmax(np.abs(impulse)))


def keep_energy(samples: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`samples` (N,) scaled to the energy of `like` (N,), float32; silence stays silence."""
    energy = np.square(samples, dtype=np.float64).sum()
    if energy == 0.0:
        return samples.astype(np.float32)
    return (samples * np.sqrt(np.square(like, dtype=np.float64).sum() / energy)).astype(np.float32)
