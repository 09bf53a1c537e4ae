"""Rows about versions of NeMo."""

from tools.parity.records import Record
from tools.parity.rows import KNOWN, Row

LEVEL = "NeMo versions"


def known(what: str, error: float, reason: str, detail: str, limit: float = 0.0) -> Row:
    """No difference between versions of NeMo is this project's failure."""
    return Row(LEVEL, what, KNOWN, error, limit, reason, detail)


def name_of(record: Record) -> str:
    return f"NeMo {record.origin['nemo_version']}"
