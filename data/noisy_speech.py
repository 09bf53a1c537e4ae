"""Decoded speech becomes an item, whatever it was decoded from: augmented, lengthened, with noise."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from data.collate import BatchAugmentor, collate_audio_noise
from data.noise import read_noise_manifest, sample_noise
from data.padding import check_pad_audio_mode, pad_audio
from parts.batch_types import AudioNoiseBatch, AudioNoiseItem, BadSample
from parts.preprocessing.drawn_audio import rejected_lines
from parts.preprocessing.perturb import Augmentor, build_augmentor
from parts.preprocessing.reverberation import RoomImpulseResponses
from parts.preprocessing.segment import BadAudio
from utils.training.rejects_list import log_reject_in_main

MAX_REPLACEMENTS = 20  # other talkers tried for one that can't be used


class NoisySpeech:
    """What the data sets of noisy speech share. See `AudioNoiseDataset` for the options."""

    def __init__(
        self,
        noise_manifest: str | Sequence[str] | None,
        batch_augmentor: BatchAugmentor | None,
        min_audio_len_secs: float,
        pad_audio_mode: str,
        *,
        sample_rate: int,
        augmentor: Augmentor | Mapping | None,
        rir_manifest: str | Sequence[str] | None,
        rir_prob: float,
        config_path: str,
    ):
        check_pad_audio_mode(pad_audio_mode)
        self.noise = read_noise_manifest(noise_manifest, f"{config_path}.noise_manifest")
        self.batch_augmentor = batch_augmentor
        self.min_samples = int(min_audio_len_secs * sample_rate)
        self.pad_audio_mode = pad_audio_mode
        self.sample_rate = sample_rate
        self.augment = augmentor
        if not isinstance(augmentor, Augmentor):
            self.augment = build_augmentor(augmentor, sample_rate, f"{config_path}.augmentor")
        self.rooms = RoomImpulseResponses(rir_manifest, rir_prob, sample_rate, config_path)

    @property
    def rejected_lines(self) -> tuple[BadSample, ...]:
        """Lines of the manifests of noise and impulse responses that name no usable piece of audio."""
        return (*rejected_lines(self.noise, "noise"), *self.rooms.rejected_lines, *self.augment.rejected_lines)

    def item(
        self,
        sample_id: str,
        speech: np.ndarray | None,
        seed: int,
        rng: np.random.Generator,
        rejected: list[BadSample],
        talkers: "OtherTalkers | None" = None,
    ) -> AudioNoiseItem:
        """speech: (N,) as decoded; None: nothing usable was found. seed: what mixing starts from.

        rng: what the augmentor and the noise are drawn with. rejected: gets the noise that can't be used.
        """
        if speech is None:
            return AudioNoiseItem(seed=seed, rejected=tuple(rejected))
        audio = self.segment(self.augment(speech, rng, rejected))
        noise, noise_len = sample_noise(self.noise, self.sample_rate, len(audio), rng=rng, rejected=rejected)
        return AudioNoiseItem(
            sample_id=sample_id,
            audio=audio,
            audio_len=torch.tensor(len(audio)),
            noise=noise,
            noise_len=noise_len,
            seed=seed,
            rejected=tuple(rejected),
            talkers=talkers,
        )

    def segment(self, speech: np.ndarray) -> Tensor:
        """(N,) -> (at least `min_samples`,)"""
        return pad_audio(torch.from_numpy(speech), self.min_samples, self.pad_audio_mode)

    def collate(self, items: Sequence[AudioNoiseItem]) -> AudioNoiseBatch:
        return collate_audio_noise(items, self.batch_augmentor, self.rooms)


class OtherTalkers(Sequence):
    """The speech of all of `total` samples but number `index`; decoded when it is asked for.

    speech: of sample i, (N,); raises BadAudio. One that can't be used is stood in for by the next that can; where none
    can, by no samples.
    """

    def __init__(self, speech: Callable[[int], Tensor], total: int, index: int):
        self.speech = speech
        self.total = total
        self.index = index

    def __len__(self) -> int:
        return self.total - 1

    def __getitem__(self, talker: int) -> Tensor:
        if not 0 <= talker < len(self):
            raise IndexError(talker)
        for step in range(min(len(self), 1 + MAX_REPLACEMENTS)):
            other = (talker + step) % len(self)
            try:
                return self.speech(other + (other >= self.index))
            except BadAudio:
                continue  # it is listed at its own turn
        return torch.zeros(0)


def generator_of(seed: Sequence[int], epoch: int, number: int, turn: int) -> np.random.Generator:
    """Of all that is drawn for a sample in an epoch. turn: how often it came before."""
    return np.random.default_rng((*seed, epoch, number, turn) if turn else (*seed, epoch, number))


def rejection(path: str, error: BadAudio, manifest: str, line: int) -> BadSample:
    """What is said of a sample that can't be used; in a loader's worker the process that trains logs it."""
    bad = BadSample(path, error.reason, str(error), manifest, line)
    log_reject_in_main(bad)
    return bad
