"""The mutations of our code, each compared with the real NeMo instead of its records."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from tests.parity.mutants import SEEN_BY_PARITY
from tools.parity.aspects.computation import NAME
from tools.parity.aspects.table import measure
from tools.parity.compare import compare_with
from tools.parity.jobs import kept_job
from tools.parity.nemo_side import complete
from tools.parity.records import Record
from tools.parity.side import Side

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif(importlib.util.find_spec("nemo") is None, reason="needs the real NeMo 3.0.0 to be installed"),
]


@pytest.fixture(scope="module")
def record_of(tmp_path_factory):
    """What NeMo computes of a case, with the whole trace, convolutions and training step included; made once."""
    made: dict[tuple[str, tuple[str, ...]], Record] = {}
    folder: Path = tmp_path_factory.mktemp("nemo")

    def record(name: str, aspects: tuple[str, ...] = (NAME,)) -> Record:
        if (name, aspects) not in made:
            job = complete(replace(kept_job(name), aspects=aspects, brief_trace=False), folder)
            made[name, aspects] = measure(Side("nemo", job, folder))
        return made[name, aspects]

    return record


@pytest.mark.parametrize("name", sorted({seen.record for seen in SEEN_BY_PARITY}))
def test_nothing_is_blamed_for_nothing(name, record_of, tmp_path):
    comparison = compare_with(record_of(name), tmp_path)
    assert (comparison.failed, comparison.culprit, comparison.cause) == ([], None, "")


@pytest.mark.parametrize("seen", SEEN_BY_PARITY, ids=lambda seen: f"{seen.mutation.__name__}-{seen.record}")
def test_nemo_shows_the_mutation_and_its_module(seen, record_of, monkeypatch, tmp_path):
    record = record_of(seen.record, seen.aspects)
    seen.mutation(monkeypatch)
    comparison = compare_with(record, tmp_path)
    assert not comparison.passed
    assert (comparison.failed[0].level, comparison.culprit.module) == (seen.level, seen.module)
    assert comparison.cause[: len(seen.cause) or None] == seen.cause
