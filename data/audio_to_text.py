"""The utterances of a manifest, decoded: what every data set over audio files starts from.

The file is named as NeMo's; pretraining reads no text.
"""

from collections.abc import Sequence

import numpy as np

from core.classes import Dataset
from parts.preprocessing.manifest import Utterance, keep_durations, read_manifests
from parts.preprocessing.segment import ChannelSelector, check_channel_selector, load_audio


class ManifestDataset(Dataset):
    """Utterances of one or several manifests, within the duration bounds.

    manifest_filepath: a path, a list of paths, or comma-separated paths.
    sample_rate: Hz that audio is resampled to.
    int_values: clip at full scale, as integer samples would.
    max_duration, min_duration: seconds; utterances beyond are left out.
    max_utts: keep only that many of them; 0: all.
    trim: cut silence at both ends.
    channel_selector: "average" (also None), a channel number from 0, or a list of channels to average.
    normalize_db: RMS level for every utterance, dB of full scale; None: as recorded.
    config_path: config section of these options, for messages.
    """

    def __init__(
        self,
        manifest_filepath: str | Sequence[str],
        sample_rate: int,
        int_values: bool = False,
        max_duration: float | None = None,
        min_duration: float | None = None,
        max_utts: int = 0,
        trim: bool = False,
        channel_selector: ChannelSelector = None,
        normalize_db: float | None = None,
        config_path: str = "model.train_ds",
    ):
        check_channel_selector(channel_selector)
        self.sample_rate = sample_rate
        self.int_values = int_values
        self.trim = trim
        self.channel_selector = channel_selector
        self.normalize_db = normalize_db
        listed = read_manifests(manifest_filepath, f"{config_path}.manifest_filepath")
        self.utterances = keep_durations(listed, min_duration, max_duration, config_path)[: max_utts or None]

    def __len__(self) -> int:
        return len(self.utterances)

    def decode(self, utterance: Utterance) -> np.ndarray:
        """(N,) float32. Raises BadAudio."""
        return load_audio(
            utterance.audio_filepath,
            self.sample_rate,
            offset=utterance.offset,
            duration=utterance.duration,
            channel_selector=self.channel_selector,
            trim=self.trim,
            int_values=self.int_values,
            normalize_db=self.normalize_db,
        )
