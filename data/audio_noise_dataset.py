"""Utterances with noise, for denoising pretraining: decode, segment, noise.

Every random choice about an utterance derives from (seed, epoch, index), so the stream is the same for any number
of loader workers.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from data.audio_to_text import ManifestDataset
from data.collate import BatchAugmentor, collate_audio_noise
from data.noise import read_noise_manifest, sample_noise
from data.padding import check_pad_audio_mode, pad_audio
from data.samplers import Draw
from data.settings import HAS_NO_EFFECT, READS_NO_TEXT, refuse_unless_neutral
from parts.batch_types import AudioNoiseBatch, AudioNoiseItem, BadSample
from parts.preprocessing.perturb import Augmentor, build_augmentor
from parts.preprocessing.reverberation import RoomImpulseResponses
from parts.preprocessing.segment import BadAudio, ChannelSelector
from parts.preprocessing.utterances import UtteranceTable
from utils.rejects_list import log_reject

MAX_REPLACEMENTS = 20  # other samples tried for one that can't be used
SIMILAR = 1000  # how many are next to it in length, of which they are drawn


class AudioNoiseDataset(ManifestDataset):
    """Each utterance of a manifest with a piece of noise of its length.

    noise_manifest: where noise comes from; None: zeros.
    batch_augmentor: mixes a collated batch (speakers, noise at a drawn level); None: audio + noise as they are.
    min_audio_len_secs: shorter utterances are padded to this, in the way `pad_audio_mode` says.
    augmentor: changes the audio itself, targets included, as in NeMo; a config section (see `build_augmentor`).
    The options after these are keywords, in NeMo's order; see `ManifestDataset`. Those that concern text are taken
    at NeMo's default only, as pretraining reads no text.

    From here on ours:
    seed: of all that is drawn; numbers or one number.
    rir_manifest, rir_prob: room impulse responses for the noisy audio, and the share of utterances that get one.
    mix_from_manifest: the batch augmentor draws talkers from the whole manifest instead of the batch, so that a
        sample is mixed alike in any batch (for evaluation).
    utterances: what a manifest lists, read already; `manifest_filepath` may then be None.
    normalize_db, config_path: see `ManifestDataset`.

    A sample that can't be used is replaced by another of about its length, drawn from (seed, epoch, index), and listed
    in `rejected` of the item that stands in for it. NeMo 3.0.0 stops the run instead, or trains on zeros.
    """

    def __init__(
        self,
        noise_manifest: str | Sequence[str] | None = None,
        batch_augmentor: BatchAugmentor | None = None,
        min_audio_len_secs: float = 1.0,
        pad_audio_mode: str = "repeat",
        *,
        manifest_filepath: str | Sequence[str] | None,
        labels: Sequence[str] | None = None,
        sample_rate: int,
        int_values: bool = False,
        augmentor: Augmentor | Mapping | None = None,
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
        seed: int | Sequence[int] = 0,
        normalize_db: float | None = None,
        rir_manifest: str | Sequence[str] | None = None,
        rir_prob: float = 0.5,
        mix_from_manifest: bool = False,
        utterances: UtteranceTable | None = None,
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
        ids = {"return_sample_id": return_sample_id}
        refuse_unless_neutral(ids, HAS_NO_EFFECT, "AudioNoiseDataset", "has no effect: items always have an id")
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
            utterances=utterances,
            config_path=config_path,
        )
        self.noise_manifest = noise_manifest
        self.batch_augmentor = batch_augmentor
        self.noise_data = read_noise_manifest(noise_manifest, f"{config_path}.noise_manifest")
        self.min_audio_len_secs = min_audio_len_secs
        self.pad_audio_mode = pad_audio_mode
        self.augment = augmentor
        if not isinstance(augmentor, Augmentor):
            self.augment = build_augmentor(augmentor, sample_rate, f"{config_path}.augmentor")
        self.seed = (seed,) if isinstance(seed, int) else tuple(seed)
        self.mix_from_manifest = mix_from_manifest
        self.reverberation = None
        if rir_manifest is not None:
            self.reverberation = RoomImpulseResponses(rir_manifest, rir_prob, sample_rate, config_path)

    @property
    def rejected_lines(self) -> tuple[BadSample, ...]:
        """Lines of the manifests, that of the noise included, that name no usable piece of audio."""
        of_noise = [bad._replace(reason=f"noise_{bad.reason}") for bad in self.noise_data.rejected]
        return (*super().rejected_lines, *of_noise)

    def __getitem__(self, draw: Draw | int) -> AudioNoiseItem:
        """A plain index means epoch 0. No audio: this draw only fills up a rank, or nothing usable was found."""
        draw = draw if isinstance(draw, Draw) else Draw(0, draw)
        if draw.index is None:
            return AudioNoiseItem()
        rng = self.generator(draw)
        item_seed = int(rng.integers(2**63))
        rejected: list[BadSample] = []
        index, speech = self.usable_speech(draw.index, rng, rejected)
        if speech is None:
            return AudioNoiseItem(seed=item_seed, rejected=tuple(rejected))
        audio = self.segment(self.augment(speech, rng, rejected))
        noise, noise_len = sample_noise(self.noise_data, self.sample_rate, len(audio), rng=rng, rejected=rejected)
        return AudioNoiseItem(
            sample_id=str(index),
            audio=audio,
            audio_len=torch.tensor(len(audio)),
            noise=noise,
            noise_len=noise_len,
            seed=item_seed,
            rejected=tuple(rejected),
            talkers=OtherTalkers(self, index) if self.mix_from_manifest else None,
        )

    def generator(self, draw: Draw) -> np.random.Generator:
        turn = (draw.turn,) if draw.turn else ()
        return np.random.default_rng((*self.seed, draw.epoch, draw.index, *turn))

    def usable_speech(
        self, index: int, rng: np.random.Generator, rejected: list[BadSample]
    ) -> tuple[int, np.ndarray | None]:
        """(index, (N,)) of this sample or, where it can't be used, of another; None when none is found.

        rejected: gets the sample whose turn it is, if that can't be used.
        """
        try:
            return index, self.decode(index)
        except BadAudio as error:
            rejected.append(self.rejection(index, error))
        similar = self.similar(index)
        for index in rng.choice(similar, MAX_REPLACEMENTS).tolist() if len(similar) else ():
            try:
                return index, self.decode(index)
            except BadAudio:
                continue  # it has a turn of its own
        return index, None

    def similar(self, index: int) -> np.ndarray:
        """Indices of other samples of about the same length, so that a batch of short ones stays one: hardly longer."""
        place = int(np.flatnonzero(self._by_length == index)[0])
        others = np.delete(self._by_length, place)
        return others[max(0, place - SIMILAR) : max(place, MAX_REPLACEMENTS)]

    @cached_property
    def _by_length(self) -> np.ndarray:
        """(len,) indices, the shortest first; those of unknown length come before."""
        return np.argsort(np.nan_to_num(self.durations), kind="stable")

    def rejection(self, index: int, error: BadAudio) -> BadSample:
        """What is said of a sample that can't be used; in a loader's worker the process that trains logs it."""
        utterance = self.utterances[index]
        bad = BadSample(utterance.audio_filepath, error.reason, str(error), utterance.manifest, utterance.line)
        if get_worker_info() is None:
            log_reject(bad)
        return bad

    def segment(self, speech: np.ndarray) -> Tensor:
        """(N,) -> (at least min_audio_len_secs,)"""
        min_samples = int(self.min_audio_len_secs * self.sample_rate)
        return pad_audio(torch.from_numpy(speech), min_samples, self.pad_audio_mode)

    def _collate_fn(self, batch: Sequence[AudioNoiseItem]) -> AudioNoiseBatch:
        return collate_audio_noise(batch, self.batch_augmentor, self.reverberation)


class OtherTalkers(Sequence):
    """The speech of all other utterances of a manifest; decoded when it is asked for.

    An utterance that can't be used is stood in for by the next that can; where none can, by no samples.
    """

    def __init__(self, dataset: AudioNoiseDataset, index: int):
        self.dataset = dataset
        self.index = index

    def __len__(self) -> int:
        return len(self.dataset) - 1

    def __getitem__(self, talker: int) -> Tensor:
        if not 0 <= talker < len(self):
            raise IndexError(talker)
        for step in range(min(len(self), 1 + MAX_REPLACEMENTS)):
            other = (talker + step) % len(self)
            try:
                return self.dataset.segment(self.dataset.decode(other + (other >= self.index)))
            except BadAudio:
                continue  # it is listed at its own turn
        return torch.zeros(0)
