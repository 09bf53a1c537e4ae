"""Cuts of lhotse with noise: what `use_lhotse: true` trains on."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from core.classes import from_config_dict
from data.audio_noise_dataset import AudioNoiseDataset, OtherTalkers
from data.lhotse_cuts import CutLines, check_lhotse, load_cut, shar_manifests
from data.lhotse_sampler import CutBatchSampler, CutDraws, cut_sampler
from data.loader import PLAN_KEYS, ResumableLoader, unchanged
from data.samplers import Draw
from data.settings import DatasetSettings, refuse_unless_neutral
from parts.batch_types import AudioNoiseBatch, BadSample
from parts.preprocessing.manifest_paths import manifest_paths
from parts.preprocessing.perturb import Augmentor
from parts.preprocessing.segment import BadAudio, ChannelSelector
from parts.preprocessing.utterances import UtteranceTable
from utils.logging import logger
from utils.rejects_list import log_reject

if TYPE_CHECKING:
    from lhotse.cut import Cut

# keys of a section that lhotse's input has no use for -> the values at which they say nothing
NOT_WITH_LHOTSE: dict[str, tuple] = {
    "manifest_filepath": (None,),
    "is_concat": (False,),
    "is_tarred": (False,),
    "tarred_audio_filepaths": (None,),
    "bucketing_batch_size": (None,),
    "bucketing_weights": (None,),
}


class LhotseAudioNoiseDataset(AudioNoiseDataset):
    """Batches of cuts, each with a piece of noise of its length: `dataset[cuts]` is a batch.

    noise_manifest, batch_augmentor_cfg: where noise comes from, and the section of a batch augmentor.
    The options after these are ours, with the meaning they have for `AudioNoiseDataset`.
    talkers: all cuts of an evaluation, so that each is mixed alike in any batch; None: talkers are batch mates.
    rejected_cuts: lines that are no cuts. max_rejected_share: see `DatasetSettings`.

    A cut's random choices derive from (seed, epoch, its id). A cut that can't be used is listed in `batch.rejected`;
    another of its batch stands in for it, with noise of its own (NeMo 3.0.0 leaves it out). NeMo decodes at each cut's
    own rate; here `sample_rate` is the batch's.
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
        rejected_cuts: Sequence[BadSample] = (),
        max_rejected_share: float | None = None,
        config_path: str = "model.train_ds",
    ):
        batch_augmentor = None
        if batch_augmentor_cfg:
            batch_augmentor = from_config_dict(batch_augmentor_cfg, path=f"{config_path}.batch_augmentor")
        super().__init__(
            noise_manifest,
            batch_augmentor,
            min_audio_len_secs,
            pad_audio_mode,
            manifest_filepath=None,
            utterances=UtteranceTable.of([]),
            sample_rate=sample_rate,
            int_values=int_values,
            augmentor=augmentor,
            trim=trim,
            channel_selector=channel_selector,
            seed=seed,
            normalize_db=normalize_db,
            rir_manifest=rir_manifest,
            rir_prob=rir_prob,
            config_path=config_path,
        )
        self.talkers = None if talkers is None else CutPool(self, talkers)
        self.rejected_cuts = tuple(rejected_cuts)
        self.max_rejected_share = max_rejected_share

    @property
    def rejected_lines(self) -> tuple[BadSample, ...]:
        return (*self.rejected_cuts, *super().rejected_lines)

    def __getitem__(self, cuts: "CutDraws | Iterable[Cut]") -> AudioNoiseBatch:
        """Cuts alone, such as a CutSet, are those of epoch 0."""
        epoch, cuts = cuts if isinstance(cuts, CutDraws) else CutDraws(0, cuts)
        cuts, item_of = list(cuts), super().__getitem__
        items = [item_of(Draw(epoch, cut)) for cut in cuts]
        usable = [cut for cut, item in zip(cuts, items) if item.audio is not None]
        for place, (cut, item) in enumerate(zip(cuts, items)):
            if item.audio is None and usable:
                other = usable[self.generator(Draw(epoch, cut)).integers(len(usable))]
                stand_in = item_of(Draw(epoch, other, turn=1 + place))
                items[place] = replace(stand_in, rejected=item.rejected + stand_in.rejected)
        if self.talkers is not None:
            for item in items:
                item.talkers = None if item.audio is None else self.talkers.without(item.sample_id)
        return self.collate_fn(items)

    # what a data set of utterances does by index, by cut

    def generator(self, draw: Draw) -> np.random.Generator:
        name = hashlib.blake2b(draw.index.id.encode(), digest_size=8).digest()
        return super().generator(draw._replace(index=int.from_bytes(name, "big")))

    def usable_speech(
        self, cut: "Cut", rng: np.random.Generator, rejected: list[BadSample]
    ) -> tuple[str, np.ndarray | None]:
        try:
            return cut.id, self.decode(cut)
        except BadAudio as error:
            rejected.append(rejection(cut, error))
            return cut.id, None

    def decode(self, cut: "Cut") -> np.ndarray:
        return load_cut(
            cut,
            self.sample_rate,
            channel_selector=self.channel_selector,
            trim=self.trim,
            int_values=self.int_values,
            normalize_db=self.normalize_db,
        )


class CutPool:
    """All cuts of an evaluation, by place, for `OtherTalkers`."""

    def __init__(self, dataset: LhotseAudioNoiseDataset, cuts: "Iterable[Cut]"):
        self.dataset = dataset
        self.cuts = list(cuts)
        self.places = {cut.id: place for place, cut in enumerate(self.cuts)}

    def without(self, cut_id: str) -> OtherTalkers:
        return OtherTalkers(self, self.places[cut_id])

    def __len__(self) -> int:
        return len(self.cuts)

    def decode(self, place: int) -> np.ndarray:
        return self.dataset.decode(self.cuts[place])

    def segment(self, speech: np.ndarray) -> Tensor:
        return self.dataset.segment(speech)


def rejection(cut: "Cut", error: BadAudio) -> BadSample:
    """What is said of a cut that can't be used; in a loader's worker the process that trains logs it."""
    manifest, line = getattr(cut, "manifest_path", ""), getattr(cut, "manifest_line", 0)
    bad = BadSample(cut.id, error.reason, str(error), manifest, line)
    if get_worker_info() is None:
        log_reject(bad)
    return bad


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
        facts={key: getattr(settings, key) for key in ("seed", *PLAN_KEYS)},
        drop_last=settings.drop_last,
        global_rank=global_rank,
        world_size=world_size,
    )
    if len(sampler) == 0:
        raise ValueError(
            f"{path}: {sampler.num_batches} batches of cuts are too few for {world_size} ranks; "
            "lower batch_size or batch_duration, or set drop_last=false"
        )
    logger.info(
        "%s: %d cuts, %d batches per epoch; padding %.1f%%",
        path,
        sampler.num_cuts,
        sampler.num_batches,
        100 * sampler.padding,
    )
    dataset = LhotseAudioNoiseDataset(
        settings.noise_manifest,
        settings.batch_augmentor,
        sample_rate=settings.sample_rate,
        min_audio_len_secs=settings.min_audio_len_secs,
        pad_audio_mode=settings.pad_audio_mode,
        int_values=settings.int_values,
        augmentor=settings.augmentor,
        trim=settings.trim_silence,
        channel_selector=settings.channel_selector,
        seed=settings.seed,
        normalize_db=settings.normalize_db,
        rir_manifest=settings.rir_manifest,
        rir_prob=settings.rir_prob,
        talkers=None if training else cuts,
        rejected_cuts=tuple(cuts.rejected.values()),
        max_rejected_share=settings.max_rejected_share,
        config_path=path,
    )
    return ResumableLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        collate_fn=unchanged,
        num_workers=settings.num_workers,
        persistent_workers=settings.num_workers > 0,
        pin_memory=settings.pin_memory and torch.cuda.is_available(),
        generator=torch.Generator(),
    )


def cut_lines(settings: DatasetSettings, path: str) -> CutLines:
    """The cuts that a section names. Raises ValueError for options without effect on them."""
    values = {key: getattr(settings, key) for key in NOT_WITH_LHOTSE}
    refuse_unless_neutral(values, NOT_WITH_LHOTSE, path, "isn't read with use_lhotse=true")
    if (settings.cuts_path is None) == (settings.shar_path is None):
        raise ValueError(f"{path}.use_lhotse=true reads one of cuts_path and shar_path; set one of them")
    if settings.shar_path is not None:
        manifests = shar_manifests(settings.shar_path, f"{path}.shar_path")
    else:
        manifests = manifest_paths(settings.cuts_path, f"{path}.cuts_path", kind="cut manifest")
    return CutLines(manifests, settings.min_duration, settings.max_duration)
