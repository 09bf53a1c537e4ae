"""Rows of the masks of two sides, with what is known of NeMo's version."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tools.parity.aspects.mask_statistics import (
    QUANTITIES,
    SIGMA,
    Difference,
    draws_for,
    largest_difference,
    limit,
)
from tools.parity.comparison import largest_difference as where_different
from tools.parity.known_versions import MaskRule, known_version, series
from tools.parity.records import Measured
from tools.parity.rows import FAILED, KNOWN, NOT_RUN, PASSED, Row

LEVEL, MODULE = "masks", "mask_processor"
OVERLAP = {"overlap": True, "no overlap": False}
RATIO, FEWER, OWN = "short rule/", "fewer starts/", "own options/"  # variants of this project's masks
SEEDED = "seeded "
IN_TRAINING = "training "
SAME_DRAWS = "both ask torch's generator for the same numbers, so one seed gives one mask"
OTHER_DRAWS = "NeMo {} asks torch's generator for other numbers than 3.0.0: compared in distribution"
TESTED = (
    f"standard errors of a difference of two samples: the largest of {len(QUANTITIES)} exceeds the limit as seldom as "
    f"a normal variable {SIGMA:g} sigma"
)
LAST_START = "; NeMo {} begins no block at the last place where one fits: compared without that place here too"
SHRUNK = "NeMo {} shifts blocks that shrink by up to a whole block, also beyond the end; 3.0.0 and this project don't"


@dataclass(frozen=True)
class MaskPair:
    """What both sides measured. version: NeMo's."""

    ours: Measured
    nemo: Measured
    version: str

    @property
    def rule(self) -> MaskRule:
        """That of NeMo's version, with the ratio of the config."""
        rule, ratio = known_version(self.version).masks, self.ours.facts["own"]["max_mask_ratio"]
        return rule if rule.max_mask_ratio is None or ratio is None else replace(rule, max_mask_ratio=ratio)

    @property
    def variant(self) -> str:
        """Which of our masks are to be those of this NeMo."""
        ruled = self.rule.max_mask_ratio is not None and self.ours.facts["own"]["max_mask_ratio"] is not None
        return RATIO if ruled else ""

    def rows(self) -> Iterator[Row]:
        yield from self.settings()
        yield from self.drawn_by_model()
        if self.ours.facts["lengths"] != self.nemo.facts["lengths"]:
            return  # they follow from the settings
        for name in OVERLAP:
            yield from self.exact(name)
        for seeded in ("", SEEDED):
            for name in OVERLAP:
                yield from self.distribution(name, seeded)
        yield from self.on_purpose()

    def mine(self, name: str, variant: str | None = None) -> Tensor:
        return self.ours.tensors[(self.variant if variant is None else variant) + name]

    # one by one

    def settings(self) -> Iterator[Row]:
        for name in ("block_size", "mask_prob", "allow_overlap"):
            got, expected = self.ours.facts[name], self.nemo.facts[name]
            detail = "" if got == expected else f"{got} instead of {expected}"
            status = FAILED if detail else PASSED
            yield Row(LEVEL, name, status, abs(got - expected), 0.0, "from one config", detail, MODULE)

    def drawn_by_model(self) -> Iterator[Row]:
        for name in ("forward", "step", f"{IN_TRAINING}forward", f"{IN_TRAINING}step"):
            lengths, masks = f"{name}/lengths", f"{name}/masks"
            reason = self.own_options() or ("" if self.rule.repeatable else OTHER_DRAWS.format(series(self.version)))
            what = f"in the model's {name}"
            yield equal(f"lengths {what}", self.ours.tensors.get(lengths), self.nemo.tensors[lengths], "counts")
            yield equal(
                f"mask {what}",
                self.ours.tensors.get(masks),
                self.nemo.tensors[masks],
                reason or SAME_DRAWS,
                bool(reason),
            )

    def exact(self, name: str) -> Iterator[Row]:
        got, expected = self.mine(f"{name}/masks"), self.nemo.tensors[f"{name}/masks"]
        lengths = self.mine(f"{name}/lengths")
        behind = torch.arange(got.shape[1]) >= lengths.unsqueeze(1)
        block_size = self.nemo.facts["block_size"]
        if self.rule.repeatable:
            yield equal(f"{name}, one seed", got, expected, SAME_DRAWS)
            training = f"{name}/{IN_TRAINING}masks"
            what = f"{name}, one seed, in training"
            yield equal(what, self.mine(training), self.nemo.tensors[training], SAME_DRAWS)
        else:
            short = torch.tensor([self.rule.is_short(length, block_size) for length in lengths.tolist()])
            version = series(self.version)
            reason = f"NeMo {version} draws nothing here"
            yield equal(f"{name}, short utterances", got[short], (expected & ~behind)[short], reason)
            yield equal(f"{name}, one seed", got[~short], expected[~short], OTHER_DRAWS.format(version), known=True)
        put_in = f"{name}/put_in"
        if self.mine(put_in).numel() and self.nemo.tensors[put_in].numel():
            reason = "the embedding stands among the weights, which are the same"
            yield equal(f"{name}, what is put in", self.mine(put_in), self.nemo.tensors[put_in], reason)
        else:
            yield Row(LEVEL, f"{name}, what is put in", NOT_RUN, reason="one side masked no frame", module=MODULE)
        reason = "a masked frame is the embedding, another one is what came in, and the mask says which"
        yield none_of(f"{name}, values", int(self.mine(f"{name}/wrong")), reason, "values are neither")
        counts = sum(int(self.mine(f"{name}/{kind}beyond").sum()) for kind in ("", SEEDED)) + int(got[behind].sum())
        yield none_of(f"{name}, behind the end", counts, "padding is never masked", "masked frames are padding")

    # in distribution

    def distribution(self, name: str, seeded: str) -> Iterator[Row]:
        lengths = self.nemo.facts["lengths"]
        most = limit(2 * len(OVERLAP) * len(lengths))
        for index, length in enumerate(lengths):
            reason, variant, known = TESTED, None, False
            if self.begins_fewer(name, length):
                reason, variant = reason + LAST_START.format(series(self.version)), FEWER
            elif name == "no overlap" and self.shifts_shrunk(length):
                reason, known = SHRUNK.format(series(self.version)), True
            seen = self.difference(f"{name}/{seeded}statistics", f"{name}/statistics", index, variant)
            status = PASSED if abs(seen.z) <= most else KNOWN if known else FAILED
            what = f"{seeded}{name}, {length} {self.nemo.facts['unit']}"
            detail = f"{told(seen)}, over {draws_for(length)} utterances"
            yield Row(LEVEL, what, status, abs(seen.z), most, reason, detail, MODULE)

    def difference(self, mine: str, nemo: str, index: int, variant: str | None = None) -> Difference:
        draws = draws_for(self.nemo.facts["lengths"][index])
        return largest_difference(self.mine(mine, variant)[index], self.nemo.tensors[nemo][index], draws)

    def begins_fewer(self, name: str, length: int) -> bool:
        """Whether this NeMo leaves out a place for a block, and ours was drawn so, too."""
        short = self.rule.is_short(length, self.nemo.facts["block_size"])
        return bool(name == "overlap" and self.rule.fewer_starts and self.variant and not short)

    def shifts_shrunk(self, length: int) -> bool:
        return self.rule.shifts_shrunk(length, self.nemo.facts["block_size"], self.nemo.facts["mask_prob"])

    # on purpose

    def own_options(self) -> str:
        """Why the mask of this config is not NeMo's, or ""."""
        own = self.ours.facts["own"]
        names = ["min_masks"] * bool(own["min_masks"])
        names += ["max_mask_ratio"] * (own["max_mask_ratio"] is not None and not self.variant)
        if not names:
            return ""
        said = ", ".join(f"masking.{name}={own[name]}" for name in names)
        return f"{said} of this project: NeMo {self.version} has no such rule"

    def on_purpose(self) -> Iterator[Row]:
        """Rows that tell how far this project is from this NeMo where it differs on purpose."""
        if reason := self.own_options():
            yield self.known_row("own options", OWN if self.ours.facts["own"]["min_masks"] else RATIO, reason)
        if self.rule.fewer_starts and self.variant:
            reason = f"NeMo {series(self.version)} begins no block at the last place where one fits; 3.0.0 does"
            yield self.known_row("the last start", RATIO, reason)

    def known_row(self, what: str, variant: str, reason: str) -> Row:
        """How far masks with overlap are apart, at the length at which they are most."""
        lengths, unit = self.nemo.facts["lengths"], self.nemo.facts["unit"]
        seen = [self.difference("overlap/statistics", "overlap/statistics", i, variant) for i in range(len(lengths))]
        worst = max(range(len(lengths)), key=lambda i: abs(seen[i].z))
        detail = f"{lengths[worst]} {unit}: {told(seen[worst])}"
        return Row(LEVEL, what, KNOWN, abs(seen[worst].z), 0.0, reason, detail, MODULE)


def told(seen: Difference) -> str:
    return f"{seen.quantity}: {seen.got:.4g} instead of {seen.expected:.4g}"


def equal(what: str, got: Tensor | None, expected: Tensor, reason: str, known: bool = False) -> Row:
    """The same tensor on both sides; error: share of entries that differ."""
    if got is None or got.shape != expected.shape:
        detail = f"{'nothing' if got is None else tuple(got.shape)} instead of shape {tuple(expected.shape)}"
        return Row(LEVEL, what, FAILED, math.inf, 0.0, reason, detail, MODULE)
    error = (got != expected).double().mean().item() if got.numel() else 0.0
    if error == 0.0:
        return Row(LEVEL, what, PASSED, 0.0, 0.0, reason, module=MODULE)
    status = KNOWN if known else FAILED
    return Row(LEVEL, what, status, error, 0.0, reason, where_different(got, expected), MODULE)


def none_of(what: str, count: int, reason: str, found: str) -> Row:
    status = FAILED if count else PASSED
    return Row(LEVEL, what, status, float(count), 0.0, reason, f"{count} {found}" if count else "", MODULE)
