"""Versions of NeMo that are known to compute something else than 3.0.0, and how; found by `tools.parity.versions`."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from tools.parity.records import Job

RECORDED = "3.0"


@dataclass(frozen=True)
class MaskRule:
    """How a version draws masks.

    max_mask_ratio: it holds utterances of at most block_size / this for short, and masks their first frames alone;
        None: that rule isn't there.
    fewer_starts: of the places where a block could begin (overlap), it leaves out this many, the last ones.
    shrunk_in_place: blocks that shrink (no overlap) begin within their own size, not that of a whole block.
    repeatable: a torch seed gives the masks of NeMo 3.0.0.
    """

    max_mask_ratio: float | None = None
    fewer_starts: int = 0
    shrunk_in_place: bool = True
    repeatable: bool = True

    def is_short(self, length: int, block_size: int) -> bool:
        return self.max_mask_ratio is not None and block_size >= length * self.max_mask_ratio

    def shifts_shrunk(self, length: int, block_size: int, mask_prob: float) -> bool:
        """Whether blocks of such an utterance shrink, and are shifted by more than their size (no overlap)."""
        blocks = math.ceil(round(length * mask_prob / block_size, 6))
        return not self.shrunk_in_place and not self.is_short(length, block_size) and (blocks + 1) * block_size > length


@dataclass(frozen=True)
class NemoVersion:
    """own_options: what this project's config must say to compute as this version, where it says nothing itself.

    why: what the version does, for those who read that.
    """

    masks: MaskRule = MaskRule()
    own_options: dict[str, Any] = field(default_factory=dict)
    why: str = ""


KNOWN_VERSIONS = {  # major.minor
    RECORDED: NemoVersion(),
    "2.6": NemoVersion(
        MaskRule(max_mask_ratio=0.8, fewer_starts=1, shrunk_in_place=False, repeatable=False),
        {"masking.max_mask_ratio": 0.8},
        "in NeMo 2.6, which masks the first 8 frames of short utterances, where 3.0.0 masks them like others",
    ),
}


def series(version: str) -> str:
    """2.6.0rc1 -> 2.6"""
    return ".".join(version.split(".")[:2])


def is_known(version: str) -> bool:
    return series(version) in KNOWN_VERSIONS


def known_version(version: str) -> NemoVersion:
    """What is known of a version; one that isn't known is taken for NeMo 3.0.0."""
    return KNOWN_VERSIONS.get(series(version), KNOWN_VERSIONS[RECORDED])


def for_version(job: Job, version: str) -> Job:
    """The job with the options that let this project compute as that version of NeMo does."""
    if not job.case.is_model:
        return job
    options = known_version(version).own_options
    missing = {key: value for key, value in options.items() if not says(job, key)}
    return replace(job, own_options=missing | job.own_options) if missing else job


def noted(job: Job, version: str) -> Job:
    """The job with a note of what `for_version` gives our side, and why."""
    added = {k: v for k, v in for_version(job, version).own_options.items() if k not in job.own_options}
    if not added:
        return job
    given = ", ".join(f"{key}={value}" for key, value in added.items())
    return replace(job, notes=(*job.notes, f"our side is given {given}, as {known_version(version).why}"))


def says(job: Job, key: str) -> bool:
    """Whether the config of a job, or what stands beside it, has a dotted key."""
    section: Any = job.case.config
    for part in key.split("."):
        if not isinstance(section, dict) or part not in section:
            return key in job.own_options
        section = section[part]
    return True
