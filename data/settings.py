"""The keys of a data set section (`train_ds`, `validation_ds`, `test_ds`), checked before anything is loaded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields

from omegaconf import DictConfig, OmegaConf

from data.padding import check_pad_audio_mode
from parts.preprocessing.segment import check_channel_selector
from utils.config_check import refuse_unknown_keys

# NeMo's keys that aren't built yet -> the values at which they change nothing, NeMo's default first
NOT_YET: dict[str, tuple] = {
    "augmentor": (None, {}),
    "return_sample_id": (False,),  # ids are always in batch.sample_id
    "is_tarred": (False,),
    "tarred_audio_filepaths": (None,),
    "tarred_shard_strategy": ("scatter",),
    "shuffle_n": (2048, None),
    "is_concat": (False,),
    "concat_sampling_technique": ("temperature", None),
    "concat_sampling_temperature": (1.0, 5, None),  # NeMo's yaml and NeMo's code
    "concat_sampling_scale": (1,),
    "concat_sampling_probabilities": (None,),
    "concat_shuffle": (True,),
    "concat_sampling_seed": (None,),
    "bucketing_strategy": ("synced_randomized", None),
    "bucketing_batch_size": (None,),
    "bucketing_weights": (None,),
    "use_lhotse": (False,),
}
READS_NO_TEXT: dict[str, tuple] = {
    "use_start_end_token": (False,),
    "labels": (None,),
    "blank_index": (-1,),
    "unk_index": (-1,),
    "normalize": (True,),
    "eos_id": (None,),
    "pad_id": (0,),
    "parser": ("en",),
}


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """Keys and defaults as in NeMo 3.0.0; from `seed` on they are ours. See `AudioNoiseDataset` for their meaning.

    seed: what noise, order and batch augmentation start from.
    """

    manifest_filepath: str | Sequence[str] | None = None
    noise_manifest: str | Sequence[str] | None = None
    sample_rate: int
    batch_size: int
    shuffle: bool
    num_workers: int = 0
    pin_memory: bool = False
    drop_last: bool = False
    min_duration: float | None = None
    max_duration: float | None = None
    trim_silence: bool = False
    int_values: bool = False
    channel_selector: int | Sequence[int] | str | None = None
    batch_augmentor: Mapping | None = None
    seed: int = 0
    min_audio_len_secs: float = 1.0
    pad_audio_mode: str = "repeat"
    normalize_db: float | None = None

    @classmethod
    def from_config(cls, config: Mapping, path: str) -> "DatasetSettings":
        """path: where `config` stands, such as model.train_ds. Raises ValueError, in one line, naming path.key."""
        values = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else dict(config)
        check_dataset_keys(values, path)
        known = {field.name: field for field in fields(cls)}
        for name, field in known.items():
            if field.default is MISSING and values.get(name) in (None, "???"):
                raise ValueError(f"{path}.{name} is missing; set it")
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except ValueError as error:
            raise ValueError(f"{path}.{error}") from None

    def __post_init__(self):
        for name, lowest in (("sample_rate", 1), ("batch_size", 1), ("num_workers", 0), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < lowest:
                raise ValueError(f"{name}={value!r} is not a whole number of at least {lowest}")
        for name in ("shuffle", "pin_memory", "drop_last", "trim_silence", "int_values"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} is not true or false")
        if not (is_number(self.min_audio_len_secs) and 0 <= self.min_audio_len_secs < math.inf):
            raise ValueError(f"min_audio_len_secs={self.min_audio_len_secs!r} is not a number of seconds")
        for name in ("min_duration", "max_duration"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and value >= 0):
                raise ValueError(f"{name}={value!r} is not a number of seconds, or null")
        if self.normalize_db is not None and not (is_number(self.normalize_db) and math.isfinite(self.normalize_db)):
            raise ValueError(f"normalize_db={self.normalize_db!r} is not a level in dB, or null")
        if None not in (self.min_duration, self.max_duration) and self.min_duration > self.max_duration:
            raise ValueError(f"min_duration={self.min_duration} is above max_duration={self.max_duration}")
        check_channel_selector(self.channel_selector)
        check_pad_audio_mode(self.pad_audio_mode)


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_dataset_keys(values: Mapping, path: str, also: Sequence[str] = ()) -> None:
    """Raise ValueError for a key that no data set section has, but for those in `also`, or that isn't supported."""
    known = [field.name for field in fields(DatasetSettings)]
    refuse_unknown_keys(values, [*known, *NOT_YET, *READS_NO_TEXT, *also], path)
    refuse_unless_neutral(values, NOT_YET, path, "is not supported yet")
    refuse_unless_neutral(values, READS_NO_TEXT, path, "has no effect: no text is read")


def refuse_unless_neutral(values: Mapping, neutral: Mapping[str, tuple], path: str, why: str) -> None:
    """Raise ValueError for an option that is known, not built, and set to something that should change the run."""
    for key, accepted in neutral.items():
        if key in values and values[key] not in accepted:
            raise ValueError(f"{path}.{key}={values[key]!r} {why}; remove it or set it to {accepted[0]!r}")
