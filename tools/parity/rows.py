"""What a comparison says of one thing, and the verdict over many."""

from collections.abc import Iterable
from dataclasses import dataclass

PASSED, FAILED, KNOWN, NOT_RUN = "passed", "failed", "known", "not run"


@dataclass(frozen=True)
class Row:
    """One thing compared.

    level: the row of the table that it belongs to.  what: a tensor, a key, a file.
    status: PASSED, FAILED, KNOWN (differs on purpose, `reason` says why) or NOT_RUN (`reason` says why).
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
    """Nothing failed, and something was compared."""
    statuses = [row.status for row in rows]
    return PASSED in statuses and FAILED not in statuses
