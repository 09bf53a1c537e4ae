"""Cuts of lhotse with noise: what `use_lhotse: true` trains on."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from core.classes import Dataset
from data.collate import build_batch_augmentor
from data.lhotse_cuts import CutLines, check_lhotse, load_cut, shar_manifests
from data.lhotse_sampler import CutBatchSampler, CutDraws, cut_sampler
from data.loader import ResumableLoader, check_size, plan_facts, report, resumable_loader
from data.noisy_speech import MAX_REPLACEMENTS, NoisySpeech, OtherTalkers, generator_of, rejection
from data.settings import DatasetSettings
from parts.batch_types import AudioNoiseBatch, AudioNoiseItem, BadSample
from parts.preprocessing.manifest_paths import manifest_paths
from parts.preprocessing.perturb import Augmentor
from parts.preprocessing.segment import BadAudio, ChannelSelector, check_channel_selector
from utils.logging import logger

if TYPE_CHECKING:
    from lhotse.cut import Cut


class LhotseAudioNoiseDataset(Dataset):
    """Batches of cuts, each with a piece of noise of its length: `dataset[cuts]` is a batch.

    noise_manifest, batch_augmentor_cfg: where noise comes from, and the section of a batch augmentor.
    The options after these are ours, with the meaning they have for `AudioNoiseDataset`.
    talkers: all cuts of an evaluation, so that each is mixed alike in any batch; None: talkers are batch mates.
    num_cuts: of an epoch, which is the length of the data set. rejected_cuts: lines that are no cuts.
    max_rejected_share: see `DatasetSettings`. These three are for `utils.training.rejects`.

    A cut's random choices derive from (seed, epoch, its id). A cut that can't be used is listed in `batch.rejected`;
    another of its batch, or in an evaluation of all cuts, stands in for it, with noise of its own (NeMo 3.0.0 leaves
    it out). NeMo decodes at each cut's own rate; here `sample_rate` is the batch's.
    """

    def __init__(
        self,
        noise_manifest: str | Sequence[str] | None = None,
        batch_augmentor_cfg: Mapping | None = None,
        *,
        sample_rate: int = 16000,
        min_audio_len_secs: float = 0.0,
        pad_audio_mode: str = "repeat",
        int_values: bool = False,
        augmentor: Augmentor | Mapping | None = None,
        trim: bool = False,
        channel_selector: ChannelSelector = None,
        seed: int = 0,
        normalize_db: float | None = None,
        rir_manifest: str | Sequence[str] | None = None,
        rir_prob: float = 0.5,
        talkers: "Iterable[Cut] | None" = None,
        num_cuts: int = 0,
        rejected_cuts: Sequence[BadSample] = (),
        max_rejected_share: float | None = None,
        config_path: str = "model.train_ds",
    ):
        check_channel_selector(channel_selector)
        self.noisy = NoisySpeech(
            noise_manifest,
            build_batch_augmentor(batch_augmentor_cfg, f"{config_path}.batch_augmentor"),
            min_audio_len_secs,
            pad_audio_mode,
            sample_rate=sample_rate,
            augmentor=augmentor,
            rir_manifest=rir_manifest,
            rir_prob=rir_prob,
            config_path=config_path,
        )
        self.sample_rate = sample_rate
        self.int_values = int_values
        self.trim = trim
        self.channel_selector = channel_selector
        self.normalize_db = normalize_db
        self.seed = seed
        self.talkers = None if talkers is None else list(talkers)
        self.places = {cut.id: place for place, cut in enumerate(self.talkers or ())}
        self.num_cuts = num_cuts
        self.rejected_cuts = tuple(rejected_cuts)
        self.max_rejected_share = max_rejected_share

    @property
    def rejected_lines(self) -> tuple[BadSample, ...]:
        return (*self.rejected_cuts, *self.noisy.rejected_lines)

    def __len__(self) -> int:
        return self.num_cuts

    def __getitem__(self, cuts: "CutDraws | Iterable[Cut]") -> AudioNoiseBatch:
        """Cuts alone, such as a CutSet, are those of epoch 0."""
        epoch, cuts = cuts if isinstance(cuts, CutDraws) else CutDraws(0, cuts)
        cuts = list(cuts)
        items = [self.item(epoch, cut) for cut in cuts]
        usable = [cut for cut, item in zip(cuts, items) if item.audio is not None]
        for place, (cut, item) in enumerate(zip(cuts, items)):
            if item.audio is None and self.talkers is not None:
                items[place] = self.stand_in(epoch, cut, item, self.talkers, turn=1 + self.places[cut.id])
            elif item.audio is None and usable:
                items[place] = self.stand_in(epoch, cut, item, usable, turn=1 + place)
        return self.collate_fn(items)

    def stand_in(
        self, epoch: int, cut: "Cut", item: AudioNoiseItem, others: "Sequence[Cut]", turn: int
    ) -> AudioNoiseItem:
        """The item of another cut, which this one draws, and whose rejection it lists; if none is found, its own."""
        rng = self.generator(epoch, cut)
        for _ in range(MAX_REPLACEMENTS):
            other = self.item(epoch, others[rng.integers(len(others))], turn)
            if other.audio is not None:
                return replace(other, rejected=item.rejected + other.rejected)
        return item

    def item(self, epoch: int, cut: "Cut", turn: int = 0) -> AudioNoiseItem:
        """Without audio where the cut can't be used. turn: above 0 where it stands in for another."""
        rng = self.generator(epoch, cut, turn)
        item_seed = int(rng.integers(2**63))
        rejected: list[BadSample] = []
        try:
            speech = self.decode(cut)
        except BadAudio as error:
            speech = None
            manifest, line = getattr(cut, "manifest_path", ""), getattr(cut, "manifest_line", 0)
            rejected.append(rejection(cut.id, error, manifest, line))
        talkers = None
        if self.talkers is not None:
            talkers = OtherTalkers(self.talker, len(self.talkers), self.places[cut.id])
        return self.noisy.item(cut.id, speech, item_seed, rng, rejected, talkers)

    def generator(self, epoch: int, cut: "Cut", turn: int = 0) -> np.random.Generator:
        name = hashlib.blake2b(cut.id.encode(), digest_size=8).digest()
        return generator_of((self.seed,), epoch, int.from_bytes(name, "big"), turn)

    def talker(self, place: int) -> Tensor:
        """What a cut of the evaluation says, (N,). Raises BadAudio."""
        return self.noisy.segment(self.decode(self.talkers[place]))

    def _collate_fn(self, batch: Sequence[AudioNoiseItem]) -> AudioNoiseBatch:
        return self.noisy.collate(batch)

    def decode(self, cut: "Cut") -> np.ndarray:
        return load_cut(
            cut,
            self.sample_rate,
            channel_selector=self.channel_selector,
            trim=self.trim,
            int_values=self.int_values,
            normalize_db=self.normalize_db,
        )


def lhotse_loader(
    settings: DatasetSettings, path: str, *, training: bool = True, global_rank: int = 0, world_size: int = 1
) -> ResumableLoader:
    """The loader of a section with `use_lhotse: true`, which names its cuts by `cuts_path` or `shar_path`.

    Batches depend on (seed, epoch) and the ranks, not on the number of workers; see `audio_noise_dataloader`.
    Raises ValueError, in one line, without lhotse, and for options that don't go with it.
    """
    check_lhotse(path)
    cuts = cut_lines(settings, path)
    sampler = CutBatchSampler(
        cut_sampler(cuts, settings, path),
        fixed_epoch=not training,
        facts={"seed": settings.seed, **plan_facts(settings)},
        drop_last=settings.drop_last,
        global_rank=global_rank,
        world_size=world_size,
    )
    check_size(sampler, settings, path)
    logger.info("%s: kept %d cuts; dropped %s", path, len(sampler.dataset), cuts.dropped())
    report(sampler, sampler.padding, path)
    dataset = LhotseAudioNoiseDataset(
        batch_augmentor_cfg=settings.batch_augmentor,
        seed=settings.seed,
        talkers=None if training else cuts,
        num_cuts=len(sampler.dataset),
        rejected_cuts=tuple(cuts.rejected.values()),
        max_rejected_share=settings.max_rejected_share,
        **settings.audio_options(),
        config_path=path,
    )
    return resumable_loader(dataset, sampler, settings)


def cut_lines(settings: DatasetSettings, path: str) -> CutLines:
    """The cuts that a section names."""
    if (settings.cuts_path is None) == (settings.shar_path is None):
        raise ValueError(f"{path}.use_lhotse=true reads one of cuts_path and shar_path; set one of them")
    if settings.shar_path is not None:
        manifests = shar_manifests(settings.shar_path, f"{path}.shar_path")
    else:
        manifests = manifest_paths(settings.cuts_path, f"{path}.cuts_path", kind="cut manifest")
    return CutLines(manifests, settings.min_duration, settings.max_duration)
