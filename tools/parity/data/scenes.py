"""What is read on both sides, item by item and batch by batch: where nothing is drawn, everything is the same."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools.parity.cases import NEMO, SAMPLE_RATE
from tools.parity.data.files import LONGEST, SHORTEST, Files
from tools.parity.side import Side

NUM_ITEMS, NUM_BATCHES = 16, 3  # of a user's manifest
YOURS = "your manifest"
DECODED, PADDED = "data.audio_to_text", "data.padding"  # modules
RESAMPLED, PLACED = "parts.preprocessing.segment", "parts.preprocessing.audio_file"  # the first also mixes down, trims
STATED = re.compile(r'"duration"\s*:\s*\d')  # in a line, which may be no JSON
AUGMENTOR = f"{NEMO}modules.ssl_modules.MultiSpeakerNoiseAugmentation"
SECTION = {
    "batch_size": 2,
    "shuffle": False,
    "num_workers": 0,
    "drop_last": False,
    "trim_silence": False,
    "channel_selector": "average",
}
# of a section `train_ds`: what says which samples an item has, without a draw
EXACT_KEYS = (
    "min_duration", "max_duration", "trim_silence", "int_values", "channel_selector", "batch_size", "drop_last",
)  # fmt: skip
# a batch augmentor that leaves nothing to chance: all of each utterance is covered, by one talker or the item's noise
DETERMINED = {
    "_target_": AUGMENTOR, "prob": 1.0, "noise_ratio": 1.0, "min_r_speech": 2.0, "max_r_speech": 2.0,
    "min_r_noise": 7.0, "max_r_noise": 7.0, "min_mix_rate": 1.0, "max_mix_rate": 1.0, "min_num_segments": 1,
    "max_num_segments": 1, "min_num_speakers": 1, "max_num_speakers": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """manifest, noise: names in `files.MANIFESTS`.  options: in the data section.  num_items, num_batches: at most.

    item_modules: for each item, the one that makes it what it is, and is to blame where it is the first that differs.
    module: the same for batches.
    """

    manifest: str
    options: dict = field(default_factory=dict)
    noise: str | None = None
    num_items: int = 8
    num_batches: int = 4
    item_modules: tuple[str, ...] = ()
    module: str = "data.collate"


def mixed(manifest: str, **changes) -> Scene:
    """Batches of a batch augmentor; its items are those of other scenes."""
    options = {"batch_augmentor": DETERMINED | changes}
    return Scene(manifest, options, "short noise", num_items=0, module="modules.ssl_modules.augmentation")


SCENES: dict[str, Scene] = {
    "speech": Scene("speech", noise="short noise", item_modules=(DECODED, RESAMPLED, RESAMPLED, PLACED, PADDED)),
    "trimmed": Scene("silent ends", {"trim_silence": True}, num_batches=0, item_modules=(RESAMPLED,)),
    "channel 1": Scene("stereo", {"channel_selector": 1}, num_batches=0, item_modules=(RESAMPLED,)),
    "all channels": Scene("stereo", {"channel_selector": None}, num_batches=0, item_modules=(RESAMPLED,)),
    "last batch dropped": Scene("speech", {"drop_last": True}, num_items=0, num_batches=1),
    "mixed with noise": mixed("speech"),
    "mixed with a talker": mixed("alike", noise_ratio=0.0),
    "mixed with nothing": mixed("speech", prob=0.0),
}


def sample_rate_of(side: Side) -> int:
    return int(side.job.case.config.get("sample_rate") or SAMPLE_RATE)


def section_of(scene: Scene, files: Files) -> dict:
    """As a config has it; NeMo reads a key that is null as one that is there, so there are none."""
    bounds = {}
    if scene.manifest == "speech":
        bounds = {"min_duration": files.seconds(SHORTEST), "max_duration": files.seconds(LONGEST)}
    noise = {} if scene.noise is None else {"noise_manifest": files.manifest(scene.noise)}
    place = {"manifest_filepath": files.manifest(scene.manifest), "sample_rate": files.sample_rate}
    return without_nulls(SECTION | bounds | noise | place | scene.options)


def user_section(side: Side) -> dict:
    """A user's manifest, read as the model's `train_ds` says. Without noise, which is drawn: see `noises`."""
    given = train_section(side)
    place = {"manifest_filepath": side.job.manifest, "sample_rate": sample_rate_of(side)}
    options = {key: given[key] for key in EXACT_KEYS if given.get(key) is not None}
    if lacks_durations(side.job.manifest):  # NeMo 3.0.0 keeps such lines whatever their length, ours read the header
        options = {key: value for key, value in options.items() if key not in ("min_duration", "max_duration")}
    return without_nulls(SECTION | options | place)


def train_section(side: Side) -> Mapping:
    return side.job.case.config.get("train_ds") or {}


def lacks_durations(manifests: str) -> bool:
    """Whether any line leaves its duration out."""
    for manifest in manifests.split(","):
        with Path(manifest).open(encoding="utf-8", errors="replace") as lines:  # who reads it says what is no text
            if any(line.strip() and not STATED.search(line) for line in lines):
                return True
    return False


def without_nulls(section: dict) -> dict:
    return {key: value for key, value in section.items() if value is not None}
