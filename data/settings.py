"""The keys of a data set section (`train_ds`, `validation_ds`, `test_ds`), checked before anything is loaded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields

from omegaconf import DictConfig, OmegaConf

from data.padding import check_pad_audio_mode
from parts.preprocessing.manifest_paths import SHARD_STRATEGIES
from parts.preprocessing.segment import check_channel_selector
from utils.config_check import refuse_unknown_keys

SAMPLING_TECHNIQUES = ("temperature", "random", "round-robin")
BUCKETING_STRATEGIES = ("synced_randomized", "fully_randomized", "fixed_order")

# keys of NeMo's that change nothing here -> the values at which they change nothing in NeMo either, its default first
HAS_NO_EFFECT: dict[str, tuple] = {
    "return_sample_id": (False,),  # ids are always in batch.sample_id
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


WHOLE_NUMBERS = {"sample_rate": 1, "num_workers": 0, "seed": 0}  # -> the lowest
WHOLE_NUMBERS_OR_NULL = {"batch_size": 1, "num_buckets": 1, "concat_sampling_seed": 0, "shuffle_n": 0}
POSITIVE_OR_NULL = ("batch_duration", "quadratic_duration")
SHARES = ("rir_prob", "max_rejected_share")
FLAGS = (
    "shuffle",
    "pin_memory",
    "drop_last",
    "trim_silence",
    "int_values",
    "is_concat",
    "concat_shuffle",
    "is_tarred",
    "use_lhotse",
)
CHOICES: dict[str, tuple] = {
    "concat_sampling_technique": (*SAMPLING_TECHNIQUES, None),
    "tarred_shard_strategy": (*SHARD_STRATEGIES,),
    "bucketing_strategy": (*BUCKETING_STRATEGIES, None),
}


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """Keys and defaults as in NeMo 3.0.0; from `seed` on they are ours. See `AudioNoiseDataset` for their meaning.

    batch_size: utterances per batch and process; null where `batch_duration` alone decides.
    seed: what noise, order and batch augmentation start from.
    batch_duration: seconds of audio, padding included, that a batch of utterances of similar length may have;
        num_buckets, quadratic_duration: see `data/batching.py` (lhotse's names).
    rir_manifest, rir_prob: room impulse responses for the noisy audio, and the share of utterances that get one.
    max_rejected_share: the run stops when more of its samples than this can't be used.
    cuts_path, shar_path: lhotse's cuts, or folder of Shar archives; with `use_lhotse`.
    """

    manifest_filepath: str | Sequence | None = None
    noise_manifest: str | Sequence[str] | None = None
    sample_rate: int
    batch_size: int | None = None
    shuffle: bool
    num_workers: int = 0
    pin_memory: bool = False
    drop_last: bool = False
    min_duration: float | None = None
    max_duration: float | None = None
    trim_silence: bool = False
    int_values: bool = False
    channel_selector: int | Sequence[int] | str | None = None
    augmentor: Mapping | None = None
    batch_augmentor: Mapping | None = None
    is_concat: bool = False
    concat_sampling_technique: str | None = None
    concat_sampling_temperature: float = 5
    concat_sampling_scale: float = 1
    concat_sampling_probabilities: Sequence[float] | None = None
    concat_shuffle: bool = True
    concat_sampling_seed: int | None = None
    is_tarred: bool = False
    tarred_audio_filepaths: str | Sequence | None = None
    tarred_shard_strategy: str = "scatter"
    shuffle_n: int | None = None
    bucketing_strategy: str | None = "synced_randomized"
    bucketing_batch_size: int | Sequence[int] | None = None
    bucketing_weights: Sequence[int] | None = None
    use_lhotse: bool = False
    seed: int = 0
    min_audio_len_secs: float = 1.0
    pad_audio_mode: str = "repeat"
    normalize_db: float | None = None
    batch_duration: float | None = None
    num_buckets: int | None = None
    quadratic_duration: float | None = None
    rir_manifest: str | Sequence[str] | None = None
    rir_prob: float = 0.5
    max_rejected_share: float = 0.5
    cuts_path: str | Sequence[str] | None = None
    shar_path: str | Sequence[str] | None = None

    @classmethod
    def from_config(cls, config: Mapping, path: str) -> "DatasetSettings":
        """path: where `config` stands, such as model.train_ds. Raises ValueError, in one line, naming path.key."""
        values = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else dict(config)
        check_dataset_keys(values, path)
        values = {name: None if value == "???" else value for name, value in values.items()}  # left open
        known = {field.name: field for field in fields(cls)}
        for name, field in known.items():
            if field.default is MISSING and values.get(name) is None:
                raise ValueError(f"{path}.{name} is missing; set it")
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except ValueError as error:
            raise ValueError(f"{path}.{error}") from None

    def __post_init__(self):
        self._check_numbers()
        for name in FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} is not true or false")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in [*choices]:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(map(str, choices))}")
        for name in ("augmentor", "batch_augmentor"):
            if not isinstance(getattr(self, name), Mapping | None):
                raise ValueError(f"{name}={getattr(self, name)!r} is not a section of keys, or null")
        check_channel_selector(self.channel_selector)
        check_pad_audio_mode(self.pad_audio_mode)
        self._check_together()

    def _check_numbers(self) -> None:
        for names, or_null in ((WHOLE_NUMBERS, False), (WHOLE_NUMBERS_OR_NULL, True)):
            for name, lowest in names.items():
                value = getattr(self, name)
                if not (or_null and value is None) and (type(value) is not int or value < lowest):
                    either = ", or null" if or_null else ""
                    raise ValueError(f"{name}={value!r} is not a whole number of at least {lowest}{either}")
        if not (is_number(self.min_audio_len_secs) and 0 <= self.min_audio_len_secs < math.inf):
            raise ValueError(f"min_audio_len_secs={self.min_audio_len_secs!r} is not a number of seconds")
        for name in ("min_duration", "max_duration"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and value >= 0):
                raise ValueError(f"{name}={value!r} is not a number of seconds, or null")
        for name in POSITIVE_OR_NULL:
            value = getattr(self, name)
            if value is not None and not (is_number(value) and 0 < value < math.inf):
                raise ValueError(f"{name}={value!r} is not a number of seconds above 0, or null")
        for name in SHARES:
            value = getattr(self, name)
            if not (is_number(value) and 0 <= value <= 1):
                raise ValueError(f"{name}={value!r} is not a share, from 0 to 1")
        if self.normalize_db is not None and not (is_number(self.normalize_db) and math.isfinite(self.normalize_db)):
            raise ValueError(f"normalize_db={self.normalize_db!r} is not a level in dB, or null")

    def _check_together(self) -> None:
        """Raise ValueError for values that are right alone and wrong together."""
        if None not in (self.min_duration, self.max_duration) and self.min_duration > self.max_duration:
            raise ValueError(f"min_duration={self.min_duration} is above max_duration={self.max_duration}")
        if self.batch_size is None and self.batch_duration is None:
            raise ValueError("batch_size is missing; set it, or batch_duration for batches of similar lengths")
        for name in ("num_buckets", "quadratic_duration"):
            if self.batch_duration is None and getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)!r} has no effect without batch_duration; set that too")
        if self.batch_duration is not None and self.bucketing_batch_size is not None:
            raise ValueError("batch_duration and bucketing_batch_size both size the batches; set one of them to null")
        if self.is_tarred and self.manifest_filepath is not None and self.tarred_audio_filepaths is None:
            raise ValueError("tarred_audio_filepaths is missing; name the tar files, or set is_tarred=false")
        for name in ("cuts_path", "shar_path"):
            if getattr(self, name) is not None and not self.use_lhotse:
                raise ValueError(f"{name}={getattr(self, name)!r} is read with use_lhotse=true only; set that too")


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_dataset_keys(values: Mapping, path: str, also: Sequence[str] = ()) -> None:
    """Raise ValueError for a key that no data set section has, but for those in `also`, or that has no effect."""
    known = [field.name for field in fields(DatasetSettings)]
    refuse_unknown_keys(values, [*known, *HAS_NO_EFFECT, *READS_NO_TEXT, *also], path)
    refuse_unless_neutral(values, HAS_NO_EFFECT, path, "has no effect: ids are always in batch.sample_id")
    refuse_unless_neutral(values, READS_NO_TEXT, path, "has no effect: no text is read")


def refuse_unless_neutral(values: Mapping, neutral: Mapping[str, tuple], path: str, why: str) -> None:
    """Raise ValueError for an option that is known, has no effect, and is set to something that should have one."""
    for key, accepted in neutral.items():
        if key in values and values[key] not in accepted:
            raise ValueError(f"{path}.{key}={values[key]!r} {why}; remove it or set it to {accepted[0]!r}")
