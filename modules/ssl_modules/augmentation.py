"""Batch augmentation: other speakers or noise, mixed into parts of the utterances of a batch."""

import random
from dataclasses import replace
from random import Random

import numpy as np
import torch
from torch import Tensor

from core.classes import Serialization
from parts.batch_types import AudioNoiseBatch


class SpeakerNoiseAugmentation(Serialization):
    """Mix one stretch of another item's speech, or of the item's own noise, into a random place of each utterance.

    prob: share of items that are mixed.  noise_ratio: share of those that get noise instead of speech.
    min_r_speech, max_r_speech, min_r_noise, max_r_noise: dB, utterance over what is mixed in.
    min_mix_rate, max_mix_rate: part of the utterance's length that is covered.

    For an item that is drawn (`prob`), `noise` becomes what is added to it and `noisy_audio` = audio + noise; the
    others keep their noise over their whole length. The energy ratio is that of the whole utterance to the whole
    source, of which the stretch is a part (a source that is too short is looped, then measured).
    With `batch.seeds` an item's draws follow from its own seed (the other speakers are those of its batch), else
    from Python's global generator, in NeMo's order.

    Results are NeMo 3.0.0's for the same seed of Python, but where that raises or loses audio: a mix rate of 1.0
    fills the utterance, empty noise is silence, `noisy_audio_len` is the audio's length also for items that were
    not drawn (NeMo: the noise's), and the batch that was given is not written to.
    Source: NEST, arXiv:2408.13106.
    """

    def __init__(
        self,
        prob: float = 0.0,
        noise_ratio: float = 0.0,
        min_r_speech: float = -5.0,
        max_r_speech: float = 5.0,
        min_r_noise: float = -5.0,
        max_r_noise: float = 20.0,
        min_mix_rate: float = 0.0,
        max_mix_rate: float = 1.0,
    ):
        check_order("r_speech", min_r_speech, max_r_speech)
        check_order("r_noise", min_r_noise, max_r_noise)
        check_order("mix_rate", min_mix_rate, max_mix_rate)
        for name, share in {
            "prob": prob,
            "noise_ratio": noise_ratio,
            "min_mix_rate": min_mix_rate,
            "max_mix_rate": max_mix_rate,
        }.items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"batch_augmentor.{name}={share} is not in [0, 1]")
        self.prob = prob
        self.noise_ratio = noise_ratio
        self.min_r_speech = min_r_speech
        self.max_r_speech = max_r_speech
        self.min_r_noise = min_r_noise
        self.max_r_noise = max_r_noise
        self.min_mix_rate = min_mix_rate
        self.max_mix_rate = max_mix_rate

    def __call__(self, batch: AudioNoiseBatch) -> AudioNoiseBatch:
        """Needs audio, audio_len, noise, noise_len; fills in noisy_audio and its length."""
        noise, noise_len = batch.noise.clone(), batch.noise_len.clone()
        for i, rng in enumerate(item_generators(batch)):
            length = int(batch.audio_len[i])
            if rng.random() < self.prob and length > 0:
                noise[i] = 0.0
                noise[i, :length] = self._interference(batch, i, rng)
                noise_len[i] = length
        return replace(
            batch,
            noise=noise,
            noise_len=noise_len,
            noisy_audio=batch.audio + noise,
            noisy_audio_len=batch.audio_len.clone(),
        )

    def _interference(self, batch: AudioNoiseBatch, item: int, rng: Random) -> Tensor:
        """What is added to the item, (its length,)."""
        audio = speech_of(batch, item)
        low, high = (int(batch.audio_len[item] * rate) for rate in (self.min_mix_rate, self.max_mix_rate))
        mix_samples = max(1, low + below(rng, high - low))
        start = below(rng, len(audio) - mix_samples)
        is_noise, ratio_db = self._kind(rng, len(batch.audio))

        source = noise_of(batch, item) if is_noise else speech_of(batch, rng.choice(other_items(batch, item)))
        if len(source) <= mix_samples:
            source = loop(source, mix_samples)
        source_start = below(rng, len(source) - mix_samples)
        mixed = torch.zeros_like(audio)
        mixed[start : start + mix_samples] = source[source_start : source_start + mix_samples]
        return gain(audio, source, ratio_db) * mixed

    def _kind(self, rng: Random, batch_size: int) -> tuple[bool, float]:
        """Noise (else speech), and the energy ratio in dB. An item alone in its batch has nobody to talk over it."""
        if rng.random() < self.noise_ratio or batch_size == 1:
            return True, rng.uniform(self.min_r_noise, self.max_r_noise)
        return False, rng.uniform(self.min_r_speech, self.max_r_speech)


class MultiSpeakerNoiseAugmentation(SpeakerNoiseAugmentation):
    """As `SpeakerNoiseAugmentation`, but what is mixed in comes in several segments, of several speakers.

    min_num_segments, max_num_segments, min_num_speakers, max_num_speakers: drawn uniformly, ends included;
        at most as many speakers as there are other items in the batch. The other arguments are the same.

    The covered part of the utterance is cut into segments of random lengths (multinomial), which are put in order
    at random places and don't overlap; noise goes on where its last segment stopped, speakers take turns. The
    energy ratio is that of the utterance to all that is added, both averaged over the utterance's length.
    Distributions are NeMo 3.0.0's; its draws differ, because it draws the lengths sample by sample (37 ms for a
    minute of audio). It raises when a segment is left without samples; here that segment is empty.
    """

    def __init__(
        self,
        prob: float = 0.0,
        noise_ratio: float = 0.0,
        min_r_speech: float = -5.0,
        max_r_speech: float = 5.0,
        min_r_noise: float = -5.0,
        max_r_noise: float = 20.0,
        min_mix_rate: float = 0.0,
        max_mix_rate: float = 1.0,
        min_num_segments: int = 1,
        max_num_segments: int = 5,
        min_num_speakers: int = 1,
        max_num_speakers: int = 4,
    ):
        super().__init__(
            prob, noise_ratio, min_r_speech, max_r_speech, min_r_noise, max_r_noise, min_mix_rate, max_mix_rate
        )
        check_order("num_segments", min_num_segments, max_num_segments)
        check_order("num_speakers", min_num_speakers, max_num_speakers)
        for name, count in {"min_num_segments": min_num_segments, "min_num_speakers": min_num_speakers}.items():
            if count < 1:
                raise ValueError(f"batch_augmentor.{name}={count} must be at least 1")
        self.min_num_segments = min_num_segments
        self.max_num_segments = max_num_segments
        self.min_num_speakers = min_num_speakers
        self.max_num_speakers = max_num_speakers

    def _interference(self, batch: AudioNoiseBatch, item: int, rng: Random) -> Tensor:
        audio = speech_of(batch, item)
        mix_samples = max(1, int(len(audio) * rng.uniform(self.min_mix_rate, self.max_mix_rate)))
        num_segments = rng.randint(self.min_num_segments, self.max_num_segments)
        num_speakers = rng.randint(self.min_num_speakers, self.max_num_speakers)
        sizes = random_sizes(rng, mix_samples, num_segments)
        starts = ordered_starts(rng, sizes, len(audio))
        is_noise, ratio_db = self._kind(rng, len(batch.audio))

        if is_noise:
            segments = loop(noise_of(batch, item), mix_samples).split(sizes)
        else:
            others = other_items(batch, item)
            speakers = rng.sample(others, min(num_speakers, len(others)))
            segments = take_turns(rng, [speech_of(batch, speaker) for speaker in speakers], sizes)
        mixed = torch.zeros_like(audio)
        for start, segment in zip(starts, segments, strict=True):
            mixed[start : start + len(segment)] = segment
        return gain(audio, mixed, ratio_db) * mixed


def random_sizes(rng: Random, total: int, parts: int) -> list[int]:
    """How many of `total` samples fall into each of `parts` equal bins."""
    return np.random.default_rng(rng.getrandbits(64)).multinomial(total, np.full(parts, 1 / parts)).tolist()


def ordered_starts(rng: Random, sizes: list[int], length: int) -> list[int]:
    """Where segments of these sizes begin, in order and without overlap, so that the last ends within `length`."""
    free, silence, spoken, starts = length - sum(sizes), 0, 0, []
    for size in sizes:
        silence += below(rng, free - silence)  # of the free samples, those before this segment
        starts.append(silence + spoken)
        spoken += size
    return starts


def take_turns(rng: Random, speakers: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """A random stretch of each size, looped if the speech is shorter; after the last speaker any may follow."""
    segments, turn = [], 0
    for size in sizes:
        speech = speakers[turn]
        start = below(rng, len(speech) - size)
        segments.append(loop(speech[start:], size) if len(speech) < size else speech[start : start + size])
        turn = turn + 1 if turn + 1 < len(speakers) else below(rng, len(speakers))
    return segments


def gain(audio: Tensor, added: Tensor, ratio_db: float) -> float:
    """Factor on `added` that puts the mean energy of `audio` `ratio_db` above it; 0 for silence."""
    energy = added.double().square().mean().item()
    if energy == 0.0:
        return 0.0
    return (audio.double().square().mean().item() / energy) ** 0.5 * 10 ** (-ratio_db / 20)


def loop(samples: Tensor, length: int) -> Tensor:
    """(N,) -> (length,): repeated from the start as often as needed; nothing, looped, is silence."""
    if len(samples) == 0:
        return samples.new_zeros(length)
    return samples.repeat(-(-length // len(samples)))[:length]


def speech_of(batch: AudioNoiseBatch, item: int) -> Tensor:
    """(N of the item,)"""
    return batch.audio[item, : int(batch.audio_len[item])]


def noise_of(batch: AudioNoiseBatch, item: int) -> Tensor:
    """(N of the item's noise,)"""
    return batch.noise[item, : int(batch.noise_len[item])]


def other_items(batch: AudioNoiseBatch, item: int) -> list[int]:
    return [other for other in range(len(batch.audio)) if other != item]


def item_generators(batch: AudioNoiseBatch) -> list[Random]:
    """One generator per item: from its seed, or Python's global one, which has the same methods."""
    if batch.seeds is None:
        return [random] * len(batch.audio)
    return [Random(seed) for seed in batch.seeds.tolist()]


def below(rng: Random, count: int) -> int:
    """Uniform in 0 .. count - 1; 0 when there is no choice."""
    return rng.randrange(count) if count > 0 else 0


def check_order(name: str, low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"batch_augmentor.min_{name}={low} is above max_{name}={high}")
