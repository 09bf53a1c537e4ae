"""What another version of NeMo computes otherwise than the one of the kept records, measured on the same jobs."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tools.parity.aspects import computation, configuration, masks
from tools.parity.aspects.mask_rows import OVERLAP
from tools.parity.aspects.mask_statistics import QUANTITIES, draws_for, largest_difference, limit
from tools.parity.comparison import compare_levels
from tools.parity.known_versions import KNOWN_VERSIONS, RECORDED, is_known, known_version
from tools.parity.records import RECORDS, Job, Record, load
from tools.parity.rows import FAILED, KNOWN, PASSED, Row
from tools.parity.sources import LiveNemo

LEVEL = "NeMo versions"


@dataclass(frozen=True)
class Cause:
    """Why masks differ.  meaning: {old} does it, {new} doesn't.  shown_by: of QUANTITIES, with short names."""

    meaning: str
    shown_by: dict[str, str]


MASKED = {"share of frames masked": "masked"}
NOTHING = {"share of utterances with nothing masked": "of utterances without a mask"}
LAST = {"last frame masked": "of last frames masked"}
END = {"share masked in tenth 10": "of the last tenth masked"}
CAUSES = {
    "short utterances": Cause(
        "{old} holds utterances of at most block_size / max_mask_ratio frames for short and masks their first 8 "
        "frames, always the same ones; {new} masks them like others, if a block fits. masking.max_mask_ratio=0.8 of "
        "this project does as {old}; masking.min_masks=1 gives a short utterance a block at a random place",
        MASKED | NOTHING,
    ),
    "the last start": Cause(
        "{old} begins no block at the last place where one fits, so it never masks the last frame", MASKED | LAST
    ),
    "blocks that shrink": Cause(
        "{old} shifts blocks that shrink, for want of room, by up to a whole block, and some beyond the end of the "
        "utterance; {new} shifts them by less than their size. This project does as {new}",
        MASKED | END,
    ),
    "something else": Cause("tools/parity/known_versions.py knows of no reason", MASKED | NOTHING | LAST),
}
RATIO_WORKS = (
    "{old} masks by it, {new} takes it and ignores it: with one configuration short utterances are masked otherwise. "
    "This project does as NeMo 3.0.0 where it is null, the default, and as NeMo 2.6 where it has a value"
)
SAME_DISTRIBUTION = "the largest difference, in standard errors of two samples"
SAME_JOB = "the same weights and inputs in both; tolerances as between NeMo and this project"


def version_notes(nemo: LiveNemo, records: Path = RECORDS) -> list[Row]:
    """Rows of level LEVEL: what the live NeMo computes otherwise than the one of the kept records. None where both are
    of one version. A version that isn't known is said to be compared as NeMo 3.0.0."""
    kept = [load(path) for path in sorted(records.glob("*.safetensors"))]
    kept = [record for record in kept if record.origin["nemo_version"] != nemo.nemo_version]
    rows = [] if is_known(nemo.nemo_version) else [unknown(nemo.nemo_version)]
    return rows + list(differences(kept, [nemo.record(job_of(record, kept)) for record in kept]))


def unknown(version: str) -> Row:
    reason = f"not one of the versions known here ({', '.join(sorted(KNOWN_VERSIONS))}): compared as NeMo {RECORDED}"
    return Row(LEVEL, f"NeMo {version}", KNOWN, reason=reason)


def job_of(record: Record, records: list[Record]) -> Job:
    """The kept record's job, with the aspects that differ between versions; masks once, as they depend on little else
    and NeMo 2.6 draws them slowly."""
    wanted = [name for name in (computation.NAME, configuration.NAME) if name in record.job.aspects]
    with_masks = [other for other in records if masks.NAME in other.measured]
    if with_masks and record is min(with_masks, key=lambda other: other.measured[masks.NAME].facts["unit"] != "frames"):
        wanted.append(masks.NAME)
    return replace(record.job, aspects=tuple(wanted))


def differences(kept: Iterable[Record], other: Iterable[Record]) -> Iterator[Row]:
    """kept, other: records of the same jobs by two versions of NeMo."""
    pairs = [VersionPair(*pair) for pair in zip(kept, other)]
    for pair in pairs:
        yield from pair.masks()
    yield from summed_up(pairs, "arguments", [row for pair in pairs for row in pair.configuration()])
    yield from summed_up(pairs, "computation", [row for pair in pairs for row in pair.computation()])


def summed_up(pairs: list["VersionPair"], what: str, rows: list[Row]) -> Iterator[Row]:
    """What differs, each thing once; and how much is the same."""
    seen: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.status == KNOWN:
            seen.setdefault((row.what, row.detail), row)
    yield from seen.values()
    if same := sum(row.status == PASSED for row in rows):
        detail = f"{same} of {len(rows)} comparisons over {len(pairs)} cases: no difference"
        yield Row(LEVEL, what, PASSED, reason=SAME_JOB, detail=detail)


@dataclass(frozen=True)
class VersionPair:
    """A job's records by two versions of NeMo."""

    kept: Record
    other: Record

    def both_have(self, aspect: str) -> bool:
        return aspect in self.kept.measured and aspect in self.other.measured

    # computation, arguments

    def computation(self) -> Iterator[Row]:
        """Every level; the first one that differs stands for those that follow from it."""
        if self.other.raised:
            yield self.known(self.kept.job.name, math.inf, f"{name_of(self.other)} raises", self.other.raised)
        if not self.both_have(computation.NAME):
            return
        differs = False
        for row in compare_levels(computation.levels_of(self.other), computation.levels_of(self.kept)):
            if row.status == FAILED and not differs:
                what = f"{self.kept.job.name}: {row.level}/{row.what}"
                yield self.known(what, row.error, row.reason, row.detail, row.limit)
            elif row.status == PASSED:
                yield row
            differs |= row.status == FAILED

    def configuration(self) -> Iterator[Row]:
        """What the constructors take, and with which defaults."""
        if not self.both_have(configuration.NAME):
            return
        kept, other = (arguments_of(record) for record in (self.kept, self.other))
        for key in sorted(kept | other):
            if key not in kept or key not in other:
                only = name_of(self.other if key in other else self.kept)
                yield self.known(key, 0.0, f"only {only} takes it", f"{(kept | other)[key]!r} there")
            elif kept[key] != other[key]:
                yield self.known(key, 0.0, "the value that is used", f"{other[key]!r} instead of {kept[key]!r}")
            else:
                yield Row(LEVEL, key, PASSED)

    # masks

    def masks(self) -> Iterator[Row]:
        """Where masks of one length are distributed otherwise, by what makes them so."""
        if not self.both_have(masks.NAME):
            return
        yield from self.ratio()
        for name in OVERLAP:
            found: dict[tuple[str, bool], list[int]] = {}
            for index, length in enumerate(self.facts["lengths"]):
                if self.distance(name, index) > self.limit:
                    found.setdefault(self.cause(name, length), []).append(index)
            for (cause, other_does), indices in found.items():
                yield self.masks_differ(name, cause, other_does, indices)
            differing = {index for indices in found.values() for index in indices}
            same = [length for index, length in enumerate(self.facts["lengths"]) if index not in differing]
            if same:
                detail = f"no difference at {', '.join(map(str, same))} {self.facts['unit']}"
                yield Row(LEVEL, f"masks, {name}", PASSED, 0.0, self.limit, SAME_DISTRIBUTION, detail)

    @property
    def facts(self) -> dict:
        return self.kept.measured[masks.NAME].facts

    def masks_differ(self, name: str, cause: str, other_does: bool, indices: list[int]) -> Row:
        """indices: of the lengths at which they do."""
        reason = CAUSES[cause].meaning.format(**self.old_and_new(other_does))
        detail = "; ".join(self.told(name, index, CAUSES[cause].shown_by) for index in indices)
        error = max(self.distance(name, index) for index in indices)
        return self.known(f"masks, {name}: {cause}", error, reason, detail, self.limit)

    def statistics(self, side: Record, name: str, index: int) -> torch.Tensor:
        return side.measured[masks.NAME].tensors[f"{name}/statistics"][index]

    @property
    def limit(self) -> float:
        return limit(len(OVERLAP) * len(self.facts["lengths"]))

    def distance(self, name: str, index: int) -> float:
        """In standard errors."""
        draws = draws_for(self.facts["lengths"][index])
        samples = (self.statistics(side, name, index) for side in (self.other, self.kept))
        return abs(largest_difference(*samples, draws).z)

    def told(self, name: str, index: int, quantities: dict[str, str]) -> str:
        """The numbers of one length in both versions."""
        parts = []
        for quantity, short in quantities.items():
            at = QUANTITIES.index(quantity)
            got, expected = (self.statistics(side, name, index)[0, at].item() for side in (self.other, self.kept))
            parts.append(f"{got:.1%} {short} instead of {expected:.1%}")
        tensors = [side.measured[masks.NAME].tensors for side in (self.other, self.kept)]
        got, expected = (int(sample[f"{name}/beyond"][index]) for sample in tensors)
        if got != expected:
            parts.append(f"{got} {self.facts['unit']} masked beyond the end instead of {expected}")
        return f"{self.facts['lengths'][index]} {self.facts['unit']}: {', '.join(parts)}"

    def cause(self, name: str, length: int) -> tuple[str, bool]:
        """A key of CAUSES, and whether it is found in the other version, not in the kept one."""
        for side in (self.other, self.kept):
            rule = known_version(side.origin["nemo_version"]).masks
            if rule.is_short(length, self.facts["block_size"]):
                return "short utterances", side is self.other
            if name == "overlap" and rule.fewer_starts:
                return "the last start", side is self.other
            if name != "overlap" and rule.shifts_shrunk(length, self.facts["block_size"], self.facts["mask_prob"]):
                return "blocks that shrink", side is self.other
        return "something else", True

    def old_and_new(self, other_is_old: bool) -> dict[str, str]:
        """Names for the texts."""
        kept, other = name_of(self.kept), name_of(self.other)
        return {"old": other, "new": kept} if other_is_old else {"old": kept, "new": other}

    def ratio(self) -> Iterator[Row]:
        """Whether `max_mask_ratio` does anything."""
        other, kept = (side.measured[masks.NAME].facts["ratio_effect"] for side in (self.other, self.kept))
        if other == kept:
            return
        detail = f"0.2 in the place of 0.8 changes {other:.1%} of the masks' frames instead of {kept:.1%}"
        reason = RATIO_WORKS.format(**self.old_and_new(other > kept))
        yield self.known("masking.max_mask_ratio", abs(other - kept), reason, detail)

    def known(self, what: str, error: float, reason: str, detail: str, limit: float = 0.0) -> Row:
        return Row(LEVEL, what, KNOWN, error, limit, reason, detail)


def name_of(record: Record) -> str:
    return f"NeMo {record.origin['nemo_version']}"


def arguments_of(record: Record) -> dict[str, object]:
    """section.name -> the value that the built model holds, or got."""
    sections = record.measured[configuration.NAME].facts["arguments"]
    return {
        f"{section}.{name}": argument.get("held", argument.get("value"))
        for section, arguments in sections.items()
        for name, argument in arguments.items()
    }
