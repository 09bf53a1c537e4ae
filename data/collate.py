"""Items become a batch: padded to the longest, mixed, and heard through a room."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from core.classes import from_config_dict
from parts.batch_types import AudioNoiseBatch, AudioNoiseItem, BadSample
from utils.stopwatch import stage, take_seconds

BatchAugmentor = Callable[[AudioNoiseBatch], AudioNoiseBatch]
Reverberation = Callable[[np.ndarray, np.random.Generator, list[BadSample]], np.ndarray]  # (N,) -> (N,)
REVERBERATION_STREAM = 1  # of the random numbers that follow from an item's seed


def build_batch_augmentor(config: Mapping | None, config_path: str) -> BatchAugmentor | None:
    """config: of `_target_` and its options; None: none. config_path: where it stands."""
    return None if config is None else from_config_dict(config, path=config_path)


def dry(noisy: np.ndarray, rng: np.random.Generator, rejected: list[BadSample]) -> np.ndarray:
    """No room."""
    return noisy


def collate_audio_noise(
    drawn: Sequence[AudioNoiseItem],
    batch_augmentor: BatchAugmentor | None = None,
    reverberation: Reverberation = dry,
) -> AudioNoiseBatch:
    """Pad what was drawn to its longest utterance, mix it, and let rooms act on the noisy audio.

    Draws without audio are left out; without any audio the batch is empty: tensors of shape (0, 0) and (0,),
    `len(batch) == 0`. `noisy_audio_len` is the audio's length (a NeMo 3.0.0 augmentor cuts it to the noise's where it
    adds nothing).
    """
    items = [item for item in drawn if item.audio is not None]
    with stage("collate"):
        batch = _padded(items) if items else _empty_batch()
    with stage("mix"):
        if batch_augmentor is not None and items:
            batch = batch_augmentor(batch)
        else:
            batch.noisy_audio = batch.audio + batch.noise
            batch.noisy_audio_len = batch.audio_len
    with stage("room"):
        bad_rooms = _reverberate(batch, reverberation)
    batch.talkers = None
    batch.rejected = (*(bad for item in drawn for bad in item.rejected), *bad_rooms)
    batch.turns = sum(item.seed is not None for item in drawn)
    batch.seconds = take_seconds()
    return batch


def _padded(items: Sequence[AudioNoiseItem]) -> AudioNoiseBatch:
    audio = pad_sequence([item.audio for item in items], batch_first=True)  # (B, N)
    num_samples = audio.shape[1]
    noise = [F.pad(item.noise[:num_samples], (0, max(0, num_samples - len(item.noise)))) for item in items]
    return AudioNoiseBatch(
        sample_id=[item.sample_id for item in items],
        audio=audio,
        audio_len=torch.stack([item.audio_len for item in items]),
        noise=torch.stack(noise),
        noise_len=torch.stack([item.noise_len for item in items]).clamp(max=num_samples),
        seeds=torch.tensor([item.seed for item in items]),
        talkers=None if items[0].talkers is None else [item.talkers for item in items],
    )


def _empty_batch() -> AudioNoiseBatch:
    no_samples, no_lengths = torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)
    return AudioNoiseBatch([], no_samples, no_lengths, no_samples, no_lengths, seeds=no_lengths)


def _reverberate(batch: AudioNoiseBatch, reverberation: Reverberation) -> list[BadSample]:
    """Rooms act on `noisy_audio` alone: `audio` stays clean, and `noise` what was added to it. Gives unusable rooms."""
    rejected: list[BadSample] = []
    for row, seed in enumerate(batch.seeds.tolist()):
        noisy = batch.noisy_audio[row, : int(batch.audio_len[row])].numpy()
        heard = reverberation(noisy, np.random.default_rng((seed, REVERBERATION_STREAM)), rejected)
        if heard is not noisy:
            noisy[:] = heard
    return rejected
