"""The keys of a data set section (`train_ds`, `validation_ds`, `test_ds`), checked before anything is loaded."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from data.batching import ARRANGEMENTS
from data.dataset import SHARES
from data.padding import check_pad_audio_mode
from parts.preprocessing.manifest_paths import SHARD_STRATEGIES
from parts.preprocessing.segment import check_channel_selector
from utils.config_check import is_number, is_share, refuse_unknown_keys, refuse_unless_neutral
from utils.logging import warn_once

DATA_KEYS = ("manifest_filepath", "cuts_path", "shar_path")  # where the data is; the last two with `use_lhotse`
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

# keys that have an effect beside another only -> that one. Of ours, such a key alone is an error ...
NEEDS: dict[str, str] = {
    "num_buckets": "batch_duration",
    "quadratic_duration": "batch_duration",
    "cuts_path": "use_lhotse",
    "shar_path": "use_lhotse",
}
# ... and of NeMo's, whose configs have some standing, a warning. -> also what NeMo's config has without the other
IDLE: dict[str, tuple[str, tuple]] = {
    "concat_sampling_technique": ("is_concat", ("temperature",)),
    "concat_sampling_temperature": ("is_concat", (1.0,)),
    "concat_sampling_scale": ("is_concat", ()),
    "concat_sampling_probabilities": ("is_concat", ()),
    "concat_shuffle": ("is_concat", ()),
    "concat_sampling_seed": ("is_concat", ()),
    "tarred_audio_filepaths": ("is_tarred", ()),
    "tarred_shard_strategy": ("is_tarred", ()),
    "shuffle_n": ("is_tarred", (2048, 0)),
    "bucketing_strategy": ("is_tarred", (None,)),
    "bucketing_batch_size": ("is_tarred", ()),
    "bucketing_weights": ("is_tarred", ()),
}
IDLE_BESIDE: dict[str, tuple[str, tuple]] = {  # likewise: keys that have no effect with some values of another
    "concat_sampling_probabilities": ("concat_sampling_technique", ("temperature", "round-robin", None)),
    "concat_sampling_seed": ("concat_sampling_technique", ("round-robin", None)),
    "bucketing_batch_size": ("is_concat", (True,)),
}
NOT_TOGETHER = {  # two keys that exclude each other, and why
    ("batch_duration", "bucketing_batch_size"): "both size the batches",
    **{
        ("use_lhotse", key): "don't go together: cuts come from cuts_path or shar_path"
        for key in ("manifest_filepath", "is_concat", "is_tarred", "tarred_audio_filepaths")
    },
}


class Kind(NamedTuple):
    """What the value of a key has to be: in words for messages, and as a test."""

    words: str
    holds: Callable[[object], bool]


def whole(lowest: int) -> Kind:
    return Kind(f"a whole number of at least {lowest}", lambda value: type(value) is int and value >= lowest)


def one_of(choices: Sequence) -> Kind:
    words = ", ".join("null" if choice is None else choice for choice in choices)
    return Kind(f"one of {words}", lambda value: value in [*choices])


def some(kind: Kind, words: str) -> Kind:
    """A list of such values, or `words`."""
    return Kind(words, lambda value: _is_list(value) and len(value) > 0 and all(map(kind.holds, value)))


def either(one: Kind, other: Kind) -> Kind:
    return Kind(f"{one.words}, or {other.words}", lambda value: one.holds(value) or other.holds(value))


def or_null(kind: Kind) -> Kind:
    return either(kind, Kind("null", lambda value: value is None))


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


FLAG = Kind("true or false", lambda value: isinstance(value, bool))
SECTION = Kind("a section of keys", lambda value: isinstance(value, Mapping))
ABOVE_0 = Kind("a number above 0", lambda value: is_number(value) and 0 < value < math.inf)
SECONDS = Kind("a number of seconds", lambda value: is_number(value) and 0 <= value < math.inf)
SECONDS_ABOVE_0 = Kind("a number of seconds above 0", ABOVE_0.holds)
BOUND = Kind("a number of seconds", lambda value: is_number(value) and value >= 0)  # .inf: none
FRACTION = Kind("a share, from 0 to 1", is_share)
LEVEL = Kind("a level in dB", lambda value: is_number(value) and math.isfinite(value))

CHOICES: dict[str, tuple] = {
    "concat_sampling_technique": (*SHARES, None),
    "tarred_shard_strategy": (*SHARD_STRATEGIES,),
    "bucketing_strategy": (*ARRANGEMENTS, None),
}
KINDS: dict[str, Kind] = {
    "sample_rate": whole(1),
    "batch_size": or_null(whole(1)),
    "num_workers": whole(0),
    "min_duration": or_null(BOUND),
    "max_duration": or_null(BOUND),
    "augmentor": or_null(SECTION),
    "batch_augmentor": or_null(SECTION),
    "concat_sampling_temperature": ABOVE_0,
    "concat_sampling_scale": ABOVE_0,
    "concat_sampling_probabilities": or_null(some(SECONDS, "a list of numbers from 0")),
    "concat_sampling_seed": or_null(whole(0)),
    "shuffle_n": or_null(whole(0)),
    "bucketing_batch_size": or_null(either(whole(1), some(whole(1), "a list of them"))),
    "bucketing_weights": or_null(some(whole(1), "a list of whole numbers above 0")),
    "seed": whole(0),
    "min_audio_len_secs": SECONDS,
    "normalize_db": or_null(LEVEL),
    "batch_duration": or_null(SECONDS_ABOVE_0),
    "num_buckets": or_null(whole(1)),
    "quadratic_duration": or_null(SECONDS_ABOVE_0),
    "rir_prob": FRACTION,
    "max_rejected_share": FRACTION,
    **{key: one_of(choices) for key, choices in CHOICES.items()},
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
            settings = cls(**{name: value for name, value in values.items() if name in known})
        except ValueError as error:
            raise ValueError(f"{path}.{error}") from None
        for said in settings.without_effect():
            warn_once(f"{path}.{said}")
        return settings

    def __post_init__(self):
        for field in fields(self):
            kind = FLAG if field.type is bool else KINDS.get(field.name)
            value = getattr(self, field.name)
            if kind is not None and not kind.holds(value):
                raise ValueError(f"{field.name}={as_in_yaml(value)} is not {kind.words}")
        check_channel_selector(self.channel_selector)
        check_pad_audio_mode(self.pad_audio_mode)
        self._check_together()

    def _check_together(self) -> None:
        """Raise ValueError for values that are right alone and wrong together."""
        if None not in (self.min_duration, self.max_duration) and self.min_duration > self.max_duration:
            raise ValueError(f"min_duration={self.min_duration} is above max_duration={self.max_duration}")
        if self.batch_size is None and self.batch_duration is None:
            raise ValueError("batch_size is missing; set it, or batch_duration for batches of similar lengths")
        if self.is_tarred and self.manifest_filepath is not None and self.tarred_audio_filepaths is None:
            raise ValueError("tarred_audio_filepaths is missing; name the tar files, or set is_tarred=false")
        for (one, other), why in NOT_TOGETHER.items():
            if self._is_set(one) and self._is_set(other):
                raise ValueError(f"{self._said(other)} and {one} {why}; set one to null or false")
        for name, needed in NEEDS.items():
            if self._is_set(name) and not self._is_set(needed):
                raise ValueError(f"{self._said(name)} has no effect without {needed}; set that too")

    def without_effect(self) -> Iterator[str]:
        """What is to be said of NeMo's keys that do nothing beside the others."""
        for name, (needed, accepted) in IDLE.items():
            if self._is_set(name) and getattr(self, name) not in accepted and not self._is_set(needed):
                yield f"{self._said(name)} has no effect without {needed}=true"
        for name, (other, values) in IDLE_BESIDE.items():
            if self.is_concat and self._is_set(name) and getattr(self, other) in values:
                yield f"{self._said(name)} has no effect with {self._said(other)}"

    def _said(self, name: str) -> str:
        return f"{name}={as_in_yaml(getattr(self, name))}"

    def _is_set(self, name: str) -> bool:
        """Whether a key asks for anything."""
        return getattr(self, name) != self.__dataclass_fields__[name].default

    def audio_options(self) -> dict[str, object]:
        """What data sets of noisy speech take by these names."""
        return {
            "noise_manifest": self.noise_manifest,
            "min_audio_len_secs": self.min_audio_len_secs,
            "pad_audio_mode": self.pad_audio_mode,
            "sample_rate": self.sample_rate,
            "int_values": self.int_values,
            "augmentor": self.augmentor,
            "trim": self.trim_silence,
            "channel_selector": self.channel_selector,
            "normalize_db": self.normalize_db,
            "rir_manifest": self.rir_manifest,
            "rir_prob": self.rir_prob,
        }


def as_in_yaml(value: object) -> str:
    """For messages: null, true and false as they are written in a config."""
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def check_dataset_keys(values: Mapping, path: str, also: Sequence[str] = ()) -> None:
    """Raise ValueError for a key that no data set section has, but for those in `also`, or that has no effect."""
    known = [field.name for field in fields(DatasetSettings)]
    refuse_unknown_keys(values, [*known, *HAS_NO_EFFECT, *READS_NO_TEXT, *also], path)
    refuse_unless_neutral(values, HAS_NO_EFFECT, path, "has no effect: ids are always in batch.sample_id")
    refuse_unless_neutral(values, READS_NO_TEXT, path, "has no effect: no text is read")
