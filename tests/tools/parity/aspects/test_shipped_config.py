"""Our yaml has NeMo's keys and values, but for the exceptions that are named with their reasons."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tools.parity.aspects import shipped_config
from tools.parity.aspects.shipped_config import EXCEPTIONS, NAME
from tools.parity.cases import CASES
from tools.parity.records import Job, Measured, Record
from tools.parity.rows import FAILED, KNOWN, PASSED, Row
from tools.parity.side import Side

PREFIX = "nest_fast-conformer.yaml: "


@pytest.fixture(scope="module")
def records() -> tuple[Record, Record]:
    """Ours and NeMo's."""
    job = Job("any", CASES["encoder_default"], (NAME,))
    ours, nemo = (Record(job, {}, {NAME: shipped_config.measure(Side(name, job, Path()))}) for name in ("ours", "nemo"))
    return ours, nemo


def rows(ours: Record, nemo: Record) -> dict[str, Row]:
    return {row.what.removeprefix(PREFIX): row for row in shipped_config.compare(ours, nemo)}


def with_key(record: Record, key: str, value: object) -> Record:
    return replace(record, measured={NAME: Measured(facts=record.measured[NAME].facts | {key: value})})


def test_nothing_fails_and_the_exceptions_are_known(records):
    found = rows(*records)
    assert [what for what, row in found.items() if row.status == FAILED] == []
    nemos = records[1].measured[NAME].facts
    assert {what for what, row in found.items() if row.status == KNOWN and what in nemos} == set(EXCEPTIONS)
    assert found["model.encoder.d_model"].status == PASSED
    assert found["model.optim.sched.d_model"].detail == "'${model.encoder.d_model}'"


def test_the_copy_of_nemos_file_is_the_one_of_the_golden_records(golden, records):
    recorded = json.loads((golden / "nemo_config" / "nest_fast-conformer.json").read_text(encoding="utf-8"))
    assert records[1].measured[NAME].facts == dict(shipped_config.leaves(recorded))


@pytest.mark.parametrize(("key", "value"), [("model.encoder.dropout", 0.2), ("trainer.devices", 1)])
def test_another_value_fails_also_of_an_exception(key, value, records):
    ours, nemo = records
    found = rows(with_key(ours, key, value), nemo)
    assert [what for what, row in found.items() if row.status == FAILED] == [key]
    assert found[key].detail.startswith(f"{value} instead of ")


def test_a_key_that_only_nemo_has_fails(records):
    ours, nemo = records
    assert rows(ours, with_key(nemo, "model.encoder.new", 1))["model.encoder.new"].status == FAILED
