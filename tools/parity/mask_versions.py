"""How two versions of NeMo draw masks otherwise, and what is known to make them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from tools.parity.aspects import masks
from tools.parity.aspects.mask_rows import OVERLAP
from tools.parity.aspects.mask_statistics import QUANTITIES, draws_for, largest_difference, limit
from tools.parity.known_versions import known_version
from tools.parity.records import Record
from tools.parity.rows import PASSED, Row
from tools.parity.version_rows import LEVEL, known, name_of


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


@dataclass(frozen=True)
class MaskPair:
    """Statistics of masks by two versions of NeMo, of one job."""

    kept: Record
    other: Record

    def rows(self) -> Iterator[Row]:
        """Where masks of one length are distributed otherwise, by what makes them so."""
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
        return known(f"masks, {name}: {cause}", error, reason, detail, self.limit)

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
        yield known("masking.max_mask_ratio", abs(other - kept), reason, detail)
