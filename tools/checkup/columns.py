"""The results of all lines, as columns of numbers: a million lines stay small."""

import numpy as np

from parts.batch_types import BadSample
from parts.preprocessing.utterances import UtteranceTable
from tools.checkup.line_check import REJECTED, CheckedLine

ROW = np.dtype(
    [
        ("status", "u1"),
        ("stated", "f8"),
        ("seconds", "f8"),
        ("whole", "f8"),
        ("rate", "u4"),
        ("channels", "u2"),
        ("format", "u2"),
        ("dc", "f4"),
        ("level_db", "f4"),
        ("power_db", "f4"),
        ("clipped", "f8"),
        ("key", "u8"),
        ("content", "u8"),
    ]
)


class Columns:
    """All results, as columns: 80 bytes per line, whatever the manifest says in it.

    sample_rate: Hz of the run.
    rows: (U,) of dtype ROW, in the order of the table. formats: names that `rows["format"]` numbers.
    """

    def __init__(self, table: UtteranceTable, sample_rate: int):
        self.table = table
        self.sample_rate = sample_rate
        self.rows = np.zeros(len(table), ROW)
        self.formats: dict[str, int] = {}
        self.rejected_rows: dict[int, BadSample] = {}

    def add(self, row: int, result: CheckedLine) -> None:
        if result.status == REJECTED:
            path = self.table.path(row)
            self.rejected_rows[row] = BadSample(path, result.reason, result.detail, result.manifest, result.line)
        measures = result.measures
        self.rows[row] = (
            result.status,
            result.stated_seconds,
            measures.seconds,
            measures.whole_seconds,
            measures.sample_rate,
            measures.channels,
            self.formats.setdefault(measures.format, len(self.formats)),
            measures.dc,
            measures.level_db,
            measures.power_db,
            measures.clipped,
            result.key,
            measures.content,
        )

    def rejects(self) -> list[BadSample]:
        """In the order of the manifests and their lines."""
        rejects = [*self.table.rejected, *self.rejected_rows.values()]
        order = {manifest: number for number, manifest in enumerate(self.table.manifests)}
        return sorted(rejects, key=lambda bad: (order[bad.manifest], bad.line))
