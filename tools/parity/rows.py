"""What a comparison says of one thing, and the verdict over many."""

from collections.abc import Iterable
from dataclasses import dataclass

PASSED, FAILED, KNOWN, NOT_RUN, BROKEN = "passed", "failed", "known", "not run", "broken off"


@dataclass(frozen=True)
class Row:
    """One thing compared.

    level: the row of the table that it belongs to.  what: a tensor, a key, a file.
    status: PASSED, FAILED, KNOWN (differs on purpose, `reason` says why), NOT_RUN (`reason` says why) or BROKEN (NeMo's
        process failed where it should have given numbers).
    error, limit: how far apart the sides are, and how far they may be, in the unit that `reason` explains.
    detail: where and how they differ: an index, both values.  module: dotted name of where it is computed, if one is.
    """

    level: str
    what: str
    status: str
    error: float = 0.0
    limit: float = 0.0
    reason: str = ""
    detail: str = ""
    module: str = ""


def all_passed(rows: Iterable[Row]) -> bool:
    """Nothing failed or broke off, and something was compared."""
    statuses = {row.status for row in rows}
    return PASSED in statuses and not statuses & {FAILED, BROKEN}
