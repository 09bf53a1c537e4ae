"""What raises in an aspect, on either side, is a row of it; nothing that was not computed has passed."""

from dataclasses import replace

import pytest

from tools.parity.aspects import computation, table
from tools.parity.aspects.table import ASPECTS, Aspect
from tools.parity.compare import Comparison, compare_with
from tools.parity.jobs import LIVE_CASES
from tools.parity.records import Measured, Record, kept
from tools.parity.rows import BROKEN, FAILED, KNOWN, NOT_RUN, PASSED
from tools.parity.side import Side

NAME = "model_pre_conv_1_book"
NEVER_RAN = {"repairs": [], "classes": {}, "trace": {"calls": [], "open": []}}
VGG = "TypeError: 'int' object is not subscriptable"


def record_of(*aspects: str) -> Record:
    record = kept(NAME)
    measured = {aspect: record.measured[aspect] for aspect in aspects}
    return replace(record, job=replace(record.job, aspects=aspects), measured=measured)


def compared(record: Record, folder, **measured: Measured) -> Comparison:
    return compare_with(replace(record, measured=record.measured | measured), folder)


def rows_of(comparison: Comparison, *statuses: str) -> list[tuple[str, str, str]]:
    return [(row.level, row.what, row.status) for row in comparison.rows if row.status in statuses]


@pytest.mark.parametrize("message", ["MemoryError: ", "ValueError: names of weights differ", VGG])
def test_a_computation_that_never_ran_has_not_passed(message, tmp_path):
    record = record_of("parameters", "computation")
    comparison = compared(record, tmp_path, computation=Measured({}, NEVER_RAN | {"raised": message}))
    assert rows_of(comparison, BROKEN, FAILED) == [("computation", "NeMo raised", BROKEN)]
    assert rows_of(comparison, PASSED) and not comparison.passed


@pytest.mark.parametrize(("message", "status"), [(VGG, NOT_RUN), ("MemoryError: ", BROKEN)])
def test_a_known_limit_of_nemo_is_told_and_is_no_pass(message, status, tmp_path):
    job = replace(LIVE_CASES["live_vggnet4"](), aspects=("computation",))
    row = computation.nemo_raised("computation", job.case, message, "nothing to compare with")
    assert (row.status, row.detail) == (status, message)
    kept_features = record_of("computation").measured["computation"].tensors
    features = {name: tensor for name, tensor in kept_features.items() if name.startswith("feature/")}
    rows = [*computation.compare_levels(features, features), row]
    nemo = Record(job, {}, {})
    assert PASSED in [row.status for row in rows] and not Comparison(nemo, nemo, rows).passed


def test_a_record_without_levels_has_not_passed(tmp_path):
    record = record_of("parameters", "computation")
    comparison = compared(record, tmp_path, computation=Measured({}, NEVER_RAN))
    assert not comparison.passed and comparison.failed


def test_a_record_without_one_parameter_has_not_passed(tmp_path):
    record = record_of("computation")
    measured = record.measured["computation"]
    gone = "parameter/encoder.layers.0.norm_out.weight"
    tensors = {name: tensor for name, tensor in measured.tensors.items() if name != gone}
    comparison = compared(record, tmp_path, computation=replace(measured, tensors=tensors))
    assert rows_of(comparison, FAILED) == [("parameter", gone.removeprefix("parameter/"), FAILED)]


def test_a_record_without_an_aspect_of_its_job_has_broken_off(tmp_path):
    record = replace(record_of("parameters"), job=replace(kept(NAME).job, aspects=("parameters", "masks")))
    comparison = compare_with(record, tmp_path)
    assert rows_of(comparison, FAILED, BROKEN, NOT_RUN) == [("masks", "NeMo's side", BROKEN)]


def raising(side: Side) -> Measured:
    raise UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid")


@pytest.mark.parametrize("side", ["nemo", "ours"])
def test_an_aspect_that_raises_leaves_the_others(side, monkeypatch, tmp_path):
    record = record_of("parameters", "data", "computation")
    monkeypatch.setitem(ASPECTS, "data", Aspect(raising, ASPECTS["data"].compare))
    if side == "nemo":
        noted = table.attempt("data", Side("nemo", record.job, tmp_path))
        monkeypatch.setitem(ASPECTS, "data", Aspect(lambda side: Measured(), ASPECTS["data"].compare))
        comparison, row = compared(record, tmp_path, data=noted), ("data", "NeMo raised", BROKEN)
    else:
        comparison, row = compare_with(record, tmp_path), ("data", "ours raised", FAILED)
    assert rows_of(comparison, FAILED, BROKEN, KNOWN, NOT_RUN) == [row]
    assert {"parameters", "gradient"} <= {row.level for row in comparison.rows if row.status == PASSED}
    assert "UnicodeDecodeError" in next(row.detail for row in comparison.rows if row.level == "data")


def test_a_model_that_nemo_cannot_build_is_no_pass(tmp_path):
    record = replace(record_of(), raised="TypeError: unexpected keyword")
    comparison = compare_with(record, tmp_path)
    assert rows_of(comparison, BROKEN) == [("computation", "NeMo raised", BROKEN)] and not comparison.passed
