"""Batch augmentation: other speakers or noise, mixed into parts of the utterances of a batch."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import torch
from torch import Tensor

from core.classes import Serialization
from parts.batch_types import AudioNoiseBatch

Stretches = list[tuple[int, Tensor]]  # where each begins, and its samples


class SpeakerNoiseAugmentation(Serialization):
    """Mix one stretch of another utterance, or of the item's own noise, into a random place of each utterance.

    prob: share of items that are mixed.  noise_ratio: share of those that get noise instead of speech.
    min_r_speech, max_r_speech, min_r_noise, max_r_noise: dB, utterance over what is mixed in.
    min_mix_rate, max_mix_rate: part of the utterance's length that is covered.

    For an item that is drawn (`prob`), `noise` becomes what is added to it and `noisy_audio` = audio + noise; the
    others keep their noise over their whole length. The energy ratio is that of the whole utterance to the whole
    source, of which the stretch is a part (a source that is too short is looped, then measured).
    With `batch.seeds` an item's draws follow from its own seed, else from Python's global generator, in NeMo's order.
    The other utterances are those of `batch.talkers` where it is given, so that an item's mixture depends on nothing
    but the item, else the other items of the batch. Where there are none, noise takes their place.

    Results are NeMo 3.0.0's for the same seed of Python, but where that raises or loses audio: a mix rate of 1.0
    fills the utterance, empty noise is silence, and `noisy_audio_len` is the audio's length also for items that
    were not drawn (NeMo: the noise's).
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
        """Needs audio, audio_len, noise, noise_len; fills in noisy_audio and its length.

        As in NeMo, `batch.noise` and `batch.noise_len` are written to; the audio never is.
        """
        lengths, noise_lengths = batch.audio_len.tolist(), batch.noise_len.tolist()
        for i, rng in enumerate(item_generators(batch)):
            if rng.random() < self.prob and lengths[i] > 0:
                others = BatchMates(batch.audio, lengths, i) if batch.talkers is None else batch.talkers[i]
                row = batch.noise[i]
                added = self._interference(batch.audio[i, : lengths[i]], row[: noise_lengths[i]], others, rng)
                row.zero_()
                for start, samples in added:
                    row[start : start + len(samples)] = samples
                batch.noise_len[i] = lengths[i]
        return replace(batch, noisy_audio=batch.audio + batch.noise, noisy_audio_len=batch.audio_len.clone())

    def _interference(self, audio: Tensor, noise: Tensor, others: Sequence[Tensor], rng: Random) -> Stretches:
        """What is added to an item, in memory of its own. audio: (N,); noise: (M,), the item's own."""
        low, high = (float32_share(len(audio), rate) for rate in (self.min_mix_rate, self.max_mix_rate))
        mix_samples = max(1, low + below(rng, high - low))
        start = below(rng, len(audio) - mix_samples)
        is_noise, ratio_db = self.draw_kind(rng, len(others))

        source = noise if is_noise else rng.choice(others)
        if len(source) <= mix_samples:
            source = loop(source, mix_samples)
        source_start = below(rng, len(source) - mix_samples)
        scale = gain(energy(audio) / len(audio), energy(source) / len(source), ratio_db)
        return [(start, scale * source[source_start : source_start + mix_samples])]

    def draw_kind(self, rng: Random, num_others: int) -> tuple[bool, float]:
        """Noise (else speech), and the energy ratio in dB. Where there is nobody to talk, it is noise."""
        if rng.random() < self.noise_ratio or num_others == 0:
            return True, rng.uniform(self.min_r_noise, self.max_r_noise)
        return False, rng.uniform(self.min_r_speech, self.max_r_speech)


class MultiSpeakerNoiseAugmentation(SpeakerNoiseAugmentation):
    """As `SpeakerNoiseAugmentation`, but what is mixed in comes in several segments, of several speakers.

    min_num_segments, max_num_segments, min_num_speakers, max_num_speakers: drawn uniformly, ends included;
        at most as many speakers as there are other utterances. The other arguments are the same.

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

    def _interference(self, audio: Tensor, noise: Tensor, others: Sequence[Tensor], rng: Random) -> Stretches:
        mix_samples = max(1, int(len(audio) * rng.uniform(self.min_mix_rate, self.max_mix_rate)))
        num_segments = rng.randint(self.min_num_segments, self.max_num_segments)
        num_speakers = rng.randint(self.min_num_speakers, self.max_num_speakers)
        sizes = random_sizes(rng, mix_samples, num_segments)
        starts = ordered_starts(rng, sizes, len(audio))
        is_noise, ratio_db = self.draw_kind(rng, len(others))

        if is_noise:
            segments = loop(noise, mix_samples).split(sizes)
        else:
            speakers = rng.sample(range(len(others)), min(num_speakers, len(others)))
            segments = take_turns(rng, [others[speaker] for speaker in speakers], sizes)
        scale = gain(energy(audio), sum(map(energy, segments)), ratio_db)
        return [(start, scale * segment) for start, segment in zip(starts, segments, strict=True)]


class BatchMates(Sequence[Tensor]):
    """The speech of all items of a batch but one, each (its length,)."""

    def __init__(self, audio: Tensor, lengths: list[int], item: int):
        self.audio, self.lengths, self.item = audio, lengths, item

    def __len__(self) -> int:
        return len(self.lengths) - 1

    def __getitem__(self, index: int) -> Tensor:
        other = index + (index >= self.item)
        return self.audio[other, : self.lengths[other]]


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


def energy(samples: Tensor) -> float:
    """Sum of squares. (The norm needs no memory and, unlike a dot product, is the same at every address.)"""
    return torch.linalg.vector_norm(samples).item() ** 2


def gain(wanted: float, added: float, ratio_db: float) -> float:
    """Factor on what has the energy `added` that puts the energy `wanted` `ratio_db` above it; 0 for silence."""
    return 0.0 if added == 0.0 else math.sqrt(wanted / added) * 10 ** (-ratio_db / 20)


def loop(samples: Tensor, length: int) -> Tensor:
    """(N,) -> (length,): repeated from the start as often as needed; nothing, looped, is silence."""
    if len(samples) == 0:
        return samples.new_zeros(length)
    return samples[:length] if len(samples) >= length else samples.repeat(-(-length // len(samples)))[:length]


def float32_share(length: int, rate: float) -> int:
    """That part of a length, rounded down in float32, as NeMo's tensors do; at most the length."""
    return min(length, int(np.float32(length) * np.float32(rate)))


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
