"""Utterances with noise, for denoising pretraining: decode, segment, noise, collate.

Every random choice about an utterance derives from (seed, epoch, index), so the stream is the same for any number
of loader workers.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from core.classes import from_config_dict
from data.audio_to_text import ManifestDataset
from data.noise import load_noise_audio, load_noise_manifest, sample_noise
from data.padding import check_pad_audio_mode, pad_audio
from data.samplers import Draw, EpochSampler
from data.settings import NOT_YET, READS_NO_TEXT, DatasetSettings, refuse_unless_neutral
from parts.batch_types import AudioNoiseBatch, AudioNoiseItem, BadSample
from parts.preprocessing.manifest import manifest_paths
from parts.preprocessing.segment import BadAudio, ChannelSelector
from utils.logging import logger

__all__ = [
    "AudioNoiseBatch",
    "AudioNoiseDataset",
    "AudioNoiseItem",
    "audio_noise_dataloader",
    "get_audio_noise_dataset_from_config",
    "load_noise_audio",
    "load_noise_manifest",
    "pad_audio",
    "sample_noise",
]


class AudioNoiseDataset(ManifestDataset):
    """Each utterance of a manifest with a piece of noise of its length.

    noise_manifest: where noise comes from; None: zeros.
    batch_augmentor: mixes a collated batch (speakers, noise at a drawn level); None: audio + noise as they are.
    min_audio_len_secs: shorter utterances are padded to this, in the way `pad_audio_mode` says.
    The options after these are keywords, in NeMo's order; see `ManifestDataset`. Those that concern text are taken
    at NeMo's default only, as pretraining reads no text.
    seed, normalize_db, config_path: ours.

    Audio that can't be used becomes a BadSample, logged with its path; collate leaves it out and lists it in
    `batch.rejected`, so a batch can be smaller than asked for, down to `len(batch) == 0`.
    NeMo 3.0.0 stops the run instead, or trains on zeros.
    """

    def __init__(
        self,
        noise_manifest: str | Sequence[str] | None = None,
        batch_augmentor: Callable[[AudioNoiseBatch], AudioNoiseBatch] | None = None,
        min_audio_len_secs: float = 1.0,
        pad_audio_mode: str = "repeat",
        *,
        manifest_filepath: str | Sequence[str],
        labels: Sequence[str] | None = None,
        sample_rate: int,
        int_values: bool = False,
        augmentor: object = None,
        max_duration: float | None = None,
        min_duration: float | None = None,
        max_utts: int = 0,
        blank_index: int = -1,
        unk_index: int = -1,
        normalize: bool = True,
        trim: bool = False,
        eos_id: int | None = None,
        pad_id: int = 0,
        parser: str = "en",
        return_sample_id: bool = False,
        channel_selector: ChannelSelector = None,
        seed: int = 0,
        normalize_db: float | None = None,
        config_path: str = "model.train_ds",
    ):
        text_options = {
            "labels": labels,
            "blank_index": blank_index,
            "unk_index": unk_index,
            "normalize": normalize,
            "eos_id": eos_id,
            "pad_id": pad_id,
            "parser": parser,
        }
        refuse_unless_neutral(text_options, READS_NO_TEXT, "AudioNoiseDataset", "has no effect: no text is read")
        later_options = {"augmentor": augmentor, "return_sample_id": return_sample_id}
        refuse_unless_neutral(later_options, NOT_YET, "AudioNoiseDataset", "is not supported yet")
        check_pad_audio_mode(pad_audio_mode)
        super().__init__(
            manifest_filepath=manifest_filepath,
            sample_rate=sample_rate,
            int_values=int_values,
            max_duration=max_duration,
            min_duration=min_duration,
            max_utts=max_utts,
            trim=trim,
            channel_selector=channel_selector,
            normalize_db=normalize_db,
            config_path=config_path,
        )
        self.noise_manifest = noise_manifest
        self.batch_augmentor = batch_augmentor
        self.noise_data = load_noise_manifest(noise_manifest, f"{config_path}.noise_manifest")
        self.min_audio_len_secs = min_audio_len_secs
        self.pad_audio_mode = pad_audio_mode
        self.seed = seed

    def __getitem__(self, draw: Draw | int) -> AudioNoiseItem | BadSample | None:
        """A plain index means epoch 0. None: this draw only fills up a rank (see `Draw`)."""
        epoch, index = draw if isinstance(draw, Draw) else Draw(0, draw)
        if index is None:
            return None
        rng = np.random.default_rng((self.seed, epoch, index))
        item_seed = int(rng.integers(2**63))
        utterance = self.utterances[index]
        try:
            audio = self.segment(self.decode(index))
        except BadAudio as error:
            bad = BadSample(utterance.audio_filepath, error.reason, str(error))
            logger.error("left out: %s: %s (%s)", *bad[:3], extra={"once": True})
            return bad
        rejected: list[BadSample] = []
        noise, noise_len = sample_noise(self.noise_data, self.sample_rate, len(audio), rng=rng, rejected=rejected)
        return AudioNoiseItem(
            sample_id=str(index),
            audio=audio,
            audio_len=torch.tensor(len(audio)),
            noise=noise,
            noise_len=noise_len,
            seed=item_seed,
            rejected=tuple(rejected),
        )

    def segment(self, speech: np.ndarray) -> Tensor:
        """(N,) -> (at least min_audio_len_secs,)"""
        min_samples = int(self.min_audio_len_secs * self.sample_rate)
        return pad_audio(torch.from_numpy(speech), min_samples, self.pad_audio_mode)

    def _collate_fn(self, batch: Sequence[AudioNoiseItem | BadSample | None]) -> AudioNoiseBatch:
        return collate_audio_noise(batch, self.batch_augmentor)


def collate_audio_noise(
    drawn: Sequence[AudioNoiseItem | BadSample | None],
    batch_augmentor: Callable[[AudioNoiseBatch], AudioNoiseBatch] | None = None,
) -> AudioNoiseBatch:
    """Pad what was drawn to its longest utterance and mix it. Bad samples are left out and listed in `rejected`.

    Without any usable sample the batch is empty: tensors of shape (0, 0) and (0,), `len(batch) == 0`.
    `noisy_audio_len` is the audio's length (a NeMo 3.0.0 augmentor cuts it to the noise's where it adds nothing).
    """
    items = [item for item in drawn if isinstance(item, AudioNoiseItem)]
    rejected = [bad for bad in drawn if isinstance(bad, BadSample)]
    rejected += [bad for item in items for bad in item.rejected]
    batch = _padded(items) if items else _empty_batch()
    if batch_augmentor is not None and items:
        batch = batch_augmentor(batch)
    else:
        batch.noisy_audio = batch.audio + batch.noise
        batch.noisy_audio_len = batch.audio_len
    batch.rejected = tuple(rejected)
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
    )


def _empty_batch() -> AudioNoiseBatch:
    no_samples, no_lengths = torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)
    return AudioNoiseBatch([], no_samples, no_lengths, no_samples, no_lengths, seeds=no_lengths)


def get_audio_noise_dataset_from_config(
    config: Mapping, global_rank: int = 0, world_size: int = 1, path: str = "model.train_ds"
) -> AudioNoiseDataset | None:
    """The data set that a section such as `model.train_ds` describes; None when its manifest is null, as in NeMo.

    global_rank, world_size: NeMo's arguments; a manifest data set is the same on all ranks, the sampler divides it.
    path: where the section stands in the config, for messages.
    """
    settings = DatasetSettings.from_config(config, path)
    return None if settings.manifest_filepath is None else build_dataset(settings, path)


def build_dataset(settings: DatasetSettings, path: str) -> AudioNoiseDataset:
    batch_augmentor = None
    if settings.batch_augmentor is not None:
        batch_augmentor = from_config_dict(settings.batch_augmentor, path=f"{path}.batch_augmentor")
    return AudioNoiseDataset(
        noise_manifest=settings.noise_manifest,
        batch_augmentor=batch_augmentor,
        min_audio_len_secs=settings.min_audio_len_secs,
        pad_audio_mode=settings.pad_audio_mode,
        manifest_filepath=settings.manifest_filepath,
        sample_rate=settings.sample_rate,
        int_values=settings.int_values,
        max_duration=settings.max_duration,
        min_duration=settings.min_duration,
        trim=settings.trim_silence,
        channel_selector=settings.channel_selector,
        seed=settings.seed,
        normalize_db=settings.normalize_db,
        config_path=path,
    )


def audio_noise_dataloader(
    config: Mapping,
    *,
    path: str = "model.train_ds",
    training: bool = True,
    global_rank: int = 0,
    world_size: int = 1,
) -> DataLoader | None:
    """Loader over a data set section. Batches depend on (seed, epoch) and the ranks, not on the number of workers.

    training: other noise in each epoch, and a manifest is required; otherwise each evaluation draws the same noise,
        and a null manifest gives None.
    """
    settings = DatasetSettings.from_config(config, path)
    if settings.manifest_filepath is None and not training:
        return None
    manifest_paths(settings.manifest_filepath, f"{path}.manifest_filepath")
    dataset = build_dataset(settings, path)
    sampler = EpochSampler(
        dataset,
        shuffle=settings.shuffle,
        seed=settings.seed,
        drop_last=settings.drop_last,
        fixed_epoch=not training,
        global_rank=global_rank,
        world_size=world_size,
    )
    if settings.drop_last and len(sampler) < settings.batch_size:
        raise ValueError(
            f"{path}: {len(dataset)} utterances over {world_size} ranks don't fill one batch of "
            f"batch_size={settings.batch_size}; lower batch_size, or set drop_last=false"
        )
    return DataLoader(
        dataset,
        batch_size=settings.batch_size,
        sampler=sampler,
        drop_last=settings.drop_last,
        num_workers=settings.num_workers,
        persistent_workers=settings.num_workers > 0,
        collate_fn=dataset.collate_fn,
        pin_memory=settings.pin_memory and torch.cuda.is_available(),  # without CUDA torch only warns
        generator=torch.Generator(),  # else a loader steps the global generator once per epoch, and masks would differ
    )
