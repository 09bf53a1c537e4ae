"""Utterances with noise, for denoising pretraining: decode, segment, noise.

Every random choice about an utterance derives from (seed, epoch, index), so the stream is the same for any number
of loader workers.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from torch import Tensor

from data.audio_to_text import ManifestDataset
from data.collate import BatchAugmentor
from data.noisy_speech import NoisySpeech, OtherTalkers, generator_of, rejection
from data.samplers import Draw
from data.settings import HAS_NO_EFFECT, READS_NO_TEXT
from parts.batch_types import AudioNoiseBatch, AudioNoiseItem, BadSample
from parts.preprocessing.perturb import Augmentor
from parts.preprocessing.segment import BadAudio, ChannelSelector
from parts.preprocessing.utterances import UtteranceTable
from utils.config_check import refuse_unless_neutral

SIMILAR = 1000  # how many are next to a sample in length, of which one that stands in for it is drawn ...
FEWEST = 20  # ... and how many there are at least for the shortest ones
TRIES = (10, 10, 20)  # for one that can't be used: of others near it in length, no longer, and of any length


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
        self.noisy = NoisySpeech(
            noise_manifest,
            batch_augmentor,
            min_audio_len_secs,
            pad_audio_mode,
            sample_rate=sample_rate,
            augmentor=augmentor,
            rir_manifest=rir_manifest,
            rir_prob=rir_prob,
            config_path=config_path,
        )
        self.seed = (seed,) if isinstance(seed, int) else tuple(seed)
        self.mix_from_manifest = mix_from_manifest

    @property
    def rejected_lines(self) -> tuple[BadSample, ...]:
        """Lines of the manifests, that of the noise included, that name no usable piece of audio."""
        return (*super().rejected_lines, *self.noisy.rejected_lines)

    def __getitem__(self, draw: Draw | int) -> AudioNoiseItem:
        """A plain index means epoch 0. No audio: this draw only fills up a rank, or nothing usable was found."""
        draw = draw if isinstance(draw, Draw) else Draw(0, draw)
        if draw.index is None:
            return AudioNoiseItem()
        rng = generator_of(self.seed, *draw)
        item_seed = int(rng.integers(2**63))
        rejected: list[BadSample] = []
        index, speech = self.usable_speech(draw.index, rng, rejected)
        talkers = OtherTalkers(self.speech, len(self), index) if self.mix_from_manifest else None
        return self.noisy.item(str(index), speech, item_seed, rng, rejected, talkers)

    def speech(self, index: int) -> Tensor:
        """What an utterance says, (N,) as it is mixed into others. Raises BadAudio."""
        return self.noisy.segment(self.decode(index))

    def usable_speech(
        self, index: int, rng: np.random.Generator, rejected: list[BadSample]
    ) -> tuple[int, np.ndarray | None]:
        """(index, (N,)) of this sample or, where it can't be used, of another; None when none is found.

        rejected: gets the sample whose turn it is, if that can't be used.
        """
        try:
            return index, self.decode(index)
        except BadAudio as error:
            utterance = self.utterances[index]
            rejected.append(rejection(utterance.audio_filepath, error, utterance.manifest, utterance.line))
        for other in self.stand_ins(index, rng).tolist():
            try:
                return other, self.decode(other)
            except BadAudio:
                continue  # it has a turn of its own
        return index, None

    def stand_ins(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """Other samples to try in turn: some of about its length, hardly longer, so that a batch of short ones stays
        one; some that are no longer; and some of all, as files that belong together are often bad together.

        A sample of unknown length is batched with the short ones, so it counts as longer than a fifth of them.
        """
        seconds = self.durations[index]
        if np.isnan(seconds):
            place = end = len(self._by_length) // 5
        else:
            place = int(np.flatnonzero(self._by_length == index)[0])
            end = int(np.searchsorted(self.durations[self._by_length], seconds, side="right"))
        near = self._by_length[max(0, place - SIMILAR) : max(place, FEWEST)]
        no_longer = self._by_length[: max(end, FEWEST)]
        pools = [pool[pool != index] for pool in (near, no_longer, np.arange(len(self)))]
        drawn = [rng.choice(pool, tries) for pool, tries in zip(pools, TRIES) if len(pool)]
        return np.concatenate([np.empty(0, np.int64), *drawn])

    @cached_property
    def _by_length(self) -> np.ndarray:
        """(K,) indices of known length, the shortest first."""
        order = np.argsort(self.durations, kind="stable")
        return order[: np.count_nonzero(~np.isnan(self.durations))]

    def _collate_fn(self, batch: Sequence[AudioNoiseItem]) -> AudioNoiseBatch:
        return self.noisy.collate(batch)
