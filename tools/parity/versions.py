"""What another version of NeMo computes otherwise than the one of the kept records, measured on the same jobs."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from tools.parity.aspects import computation, configuration, masks
from tools.parity.aspects.table import RAISED
from tools.parity.comparison import compare_levels
from tools.parity.known_versions import KNOWN_VERSIONS, RECORDED, is_known
from tools.parity.mask_versions import MaskPair
from tools.parity.records import RECORDS, Job, Record, description_of, load
from tools.parity.rows import BROKEN, FAILED, KNOWN, NOT_RUN, PASSED, Row
from tools.parity.sources import LiveNemo
from tools.parity.version_rows import LEVEL, known, name_of
from tools.side_process import SideFailed

SAME_JOB = "the same weights and inputs in both; tolerances as between NeMo and this project"


def version_notes(nemo: LiveNemo, records: Path = RECORDS, only: str = "") -> list[Row]:
    """Rows of level LEVEL: what the live NeMo computes otherwise than the one of the kept records. None where both are
    of one version. A version that isn't known is said to be compared as NeMo 3.0.0.

    only: of the records those whose name contains this.
    """
    made_by = {path: description_of(path)["origin"]["nemo_version"] for path in sorted(records.glob("*.safetensors"))}
    others = [path for path, version in made_by.items() if version != nemo.nemo_version]
    rows = [] if is_known(nemo.nemo_version) else [unknown(nemo.nemo_version)]
    kept = [load(path) for path in others if only in path.stem]
    if others and not kept:
        reason = f"versions are compared on the jobs of the kept records, and --only={only} is in the name of none"
        rows.append(Row(LEVEL, f"NeMo {nemo.nemo_version}", NOT_RUN, reason=reason))
    pairs = []
    for record in kept:
        try:
            pairs.append((record, nemo.record(job_of(record, kept))))
        except SideFailed as error:
            rows.append(Row(LEVEL, record.job.name, BROKEN, reason="NeMo's process failed", detail=error.in_one_line))
    return rows + list(differences(*zip(*pairs))) if pairs else rows


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
    pairs = list(zip(kept, other))
    for pair in pairs:
        yield from raised(*pair)
        if both_have(masks.NAME, *pair):
            yield from MaskPair(*pair).rows()
    yield from summed_up(len(pairs), "arguments", [row for pair in pairs for row in arguments(*pair)])
    yield from summed_up(len(pairs), "computation", [row for pair in pairs for row in computed(*pair)])


def summed_up(num_cases: int, what: str, rows: list[Row]) -> Iterator[Row]:
    """What differs, each thing once; and how much is the same."""
    seen: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.status == KNOWN:
            seen.setdefault((row.what, row.detail), row)
    yield from seen.values()
    if same := sum(row.status == PASSED for row in rows):
        cases = f"{num_cases} case{'s' * (num_cases != 1)}"
        detail = f"{same} of {len(rows)} comparisons over {cases}: no difference"
        yield Row(LEVEL, what, PASSED, reason=SAME_JOB, detail=detail)


def both_have(aspect: str, kept: Record, other: Record) -> bool:
    """Neither lacks the aspect, or raised in it."""
    return all(aspect in side.measured and RAISED not in side.measured[aspect].facts for side in (kept, other))


def raised(kept: Record, other: Record) -> Iterator[Row]:
    """What the other version raises, as a whole or in an aspect."""
    errors = {"": other.raised} | {name: measured.facts.get(RAISED) for name, measured in other.measured.items()}
    for aspect, error in errors.items():
        if error:
            what = f"{kept.job.name}{f', {aspect}' if aspect else ''}"
            yield known(what, math.inf, f"{name_of(other)} raises", error)


def computed(kept: Record, other: Record) -> Iterator[Row]:
    """Every level; the first one that differs stands for those that follow from it."""
    if not both_have(computation.NAME, kept, other):
        return
    differs = False
    for row in compare_levels(computation.levels_of(other), computation.levels_of(kept)):
        if row.status == FAILED and not differs:
            what = f"{kept.job.name}: {row.level}/{row.what}"
            yield known(what, row.error, row.reason, row.detail, row.limit)
        elif row.status == PASSED:
            yield row
        differs |= row.status == FAILED


def arguments(kept: Record, other: Record) -> Iterator[Row]:
    """What the constructors take, and with which defaults."""
    if not both_have(configuration.NAME, kept, other):
        return
    before, now = arguments_of(kept), arguments_of(other)
    for key in sorted(before | now):
        if key not in before or key not in now:
            only = name_of(other if key in now else kept)
            yield known(key, 0.0, f"only {only} takes it", f"{(before | now)[key]!r} there")
        elif before[key] != now[key]:
            yield known(key, 0.0, "the value that is used", f"{now[key]!r} instead of {before[key]!r}")
        else:
            yield Row(LEVEL, key, PASSED)


def arguments_of(record: Record) -> dict[str, object]:
    """section.name -> the value that the built model holds, or got."""
    sections = record.measured[configuration.NAME].facts["arguments"]
    return {
        f"{section}.{name}": argument.get("held", argument.get("value"))
        for section, arguments in sections.items()
        for name, argument in arguments.items()
    }
