"""A comparison of one job: our side computed anew, held against NeMo's record."""

from dataclasses import dataclass
from pathlib import Path

from tools.parity.aspects.computation import is_comparable, is_computed
from tools.parity.aspects.files import hand_over
from tools.parity.aspects.table import compare, measure
from tools.parity.diagnosis.culprit import Culprit
from tools.parity.diagnosis.diagnosis import diagnose
from tools.parity.records import Job, Record
from tools.parity.rows import BROKEN, FAILED, Row, all_passed
from tools.parity.side import Side, origin


@dataclass(frozen=True)
class Comparison:
    """rows: everything that was compared.  culprit: the first module that diverges, where one does.

    cause: what that looks like, "" where it looks like nothing known.
    """

    ours: Record
    nemo: Record
    rows: list[Row]
    culprit: Culprit | None = None
    cause: str = ""

    @property
    def name(self) -> str:
        return self.nemo.job.name

    @property
    def passed(self) -> bool:
        return all_passed(self.rows) and is_comparable(self.nemo, self.rows)

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row.status == FAILED]


def compare_with(nemo: Record, folder: Path) -> Comparison:
    """Compute our side of a record's job, and compare."""
    hand_over(nemo, folder)
    ours = measure(Side("ours", nemo.job, folder))
    rows = list(compare(ours, nemo))
    found = diagnose(ours, nemo, rows) if is_computed(ours) and is_computed(nemo) else ()
    return Comparison(ours, nemo, rows, *found)


def broken_off(job: Job, nemo_origin: dict[str, str], why: str) -> Comparison:
    """Of a job at which NeMo's process failed.  why: its last words, in one line."""
    row = Row("computation", "NeMo's process", BROKEN, reason="it failed, so there is nothing to compare", detail=why)
    return Comparison(Record(job, origin("ours")), Record(job, nemo_origin), [row])
