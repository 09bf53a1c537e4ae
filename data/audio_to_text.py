"""The utterances of a manifest, decoded: what every data set over audio files starts from.

The file is named as NeMo's, and `expand_sharded_filepaths` is where NeMo's users look for it; no text is read.
"""

from collections.abc import Sequence

import numpy as np

from core.classes import Dataset
from parts.batch_types import BadSample
from parts.preprocessing.manifest import keep_durations, read_manifests
from parts.preprocessing.manifest_paths import SHARD_STRATEGIES, expand_braces
from parts.preprocessing.segment import ChannelSelector, check_channel_selector, load_audio
from parts.preprocessing.utterances import UtteranceTable
from utils.logging import logger


class ManifestDataset(Dataset):
    """Utterances of one or several manifests, within the duration bounds.

    manifest_filepath: a path, several, or a pattern (see `manifest_paths`).
    sample_rate: Hz that audio is resampled to.
    int_values: clip at full scale, as integer samples would.
    max_duration, min_duration: seconds; utterances beyond are left out.
    max_utts: keep only that many of them; 0: all.
    trim: cut silence at both ends.
    channel_selector: "average" (also None), a channel number from 0, or a list of channels to average.
    normalize_db: RMS level for every utterance, dB of full scale; None: as recorded.
    config_path: config section of these options, for messages.
    utterances: a table to use instead of a manifest, all of it; `manifest_filepath` is None then.
    """

    def __init__(
        self,
        manifest_filepath: str | Sequence[str] | None,
        sample_rate: int,
        int_values: bool = False,
        max_duration: float | None = None,
        min_duration: float | None = None,
        max_utts: int = 0,
        trim: bool = False,
        channel_selector: ChannelSelector = None,
        normalize_db: float | None = None,
        config_path: str = "model.train_ds",
        utterances: UtteranceTable | None = None,
    ):
        check_channel_selector(channel_selector)
        self.sample_rate = sample_rate
        self.int_values = int_values
        self.trim = trim
        self.channel_selector = channel_selector
        self.normalize_db = normalize_db
        if utterances is None:
            utterances = read_manifests(manifest_filepath, f"{config_path}.manifest_filepath")
            utterances = keep_durations(utterances, min_duration, max_duration, config_path)[: max_utts or None]
        self.utterances = utterances

    @property
    def durations(self) -> np.ndarray:
        """(len,) float64 seconds; NaN where unknown."""
        return self.utterances.durations

    @property
    def rejected_lines(self) -> tuple[BadSample, ...]:
        """Lines of the manifests that name no usable piece of audio."""
        return self.utterances.rejected

    def __len__(self) -> int:
        return len(self.utterances)

    def decode(self, index: int) -> np.ndarray:
        """(N,) float32. Raises BadAudio."""
        utterance = self.utterances[index]
        return load_audio(
            self.utterances.open(index),
            self.sample_rate,
            offset=utterance.offset,
            duration=utterance.duration,
            channel_selector=self.channel_selector,
            trim=self.trim,
            int_values=self.int_values,
            normalize_db=self.normalize_db,
        )


def expand_sharded_filepaths(
    sharded_filepaths: str | Sequence[str], shard_strategy: str, world_size: int, global_rank: int
) -> list[str]:
    """The tar files or sharded manifests that one rank reads.

    sharded_filepaths: a pattern such as `audio__OP_0..511_CL_.tar` (see `expand_braces`), or a list, taken as it is.
    shard_strategy: `scatter`: every rank its own share of consecutive files; `replicate`: all files for every rank.
    Shares are of equal size, so `scatter` leaves out the files behind the last share, and says so.
    Source: NeMo 3.0.0 `asr/data/audio_to_text.py`.
    """
    if shard_strategy not in SHARD_STRATEGIES:
        raise ValueError(f"shard_strategy={shard_strategy!r} is not one of {', '.join(SHARD_STRATEGIES)}")
    paths = expand_braces(sharded_filepaths) if isinstance(sharded_filepaths, str) else list(sharded_filepaths)
    shards_of, world_size = SHARD_STRATEGIES[shard_strategy], max(1, world_size)  # NeMo's default is 0
    left_out = len(paths) - shards_of(len(paths), world_size, world_size - 1).stop
    if left_out:
        logger.warning("%d shards over %d ranks: the last %d are not read", len(paths), world_size, left_out)
    return [paths[shard] for shard in shards_of(len(paths), world_size, global_rank)]
