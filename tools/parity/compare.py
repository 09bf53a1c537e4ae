"""A comparison of one job: our side computed anew, held against NeMo's record."""

from dataclasses import dataclass
from pathlib import Path

from tools.parity.aspects.files import hand_over
from tools.parity.aspects.table import compare, measure
from tools.parity.diagnosis.culprit import Culprit
from tools.parity.diagnosis.diagnosis import diagnose
from tools.parity.records import Record
from tools.parity.rows import FAILED, Row, all_passed
from tools.parity.side import Side


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
        return all_passed(self.rows)

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row.status == FAILED]


def compare_with(nemo: Record, folder: Path) -> Comparison:
    """Compute our side of a record's job, and compare."""
    hand_over(nemo, folder)
    ours = measure(Side("ours", nemo.job, folder))
    rows = list(compare(ours, nemo))
    return Comparison(ours, nemo, rows, *diagnose(ours, nemo, rows))
