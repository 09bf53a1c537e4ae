"""What came of each line of the table, and of all."""

from dataclasses import replace

import pytest

from tools.parity.cases import LEVELS
from tools.parity.report.summary import LINES, Report, case_status, share_of_limit, summarise
from tools.parity.rows import BROKEN, FAILED, KNOWN, NOT_RUN, PASSED, Row


def test_each_level_of_the_computation_has_a_line_and_only_one():
    levels = [level for line in LINES for level in line.levels]
    assert len(levels) == len(set(levels))
    assert set(LEVELS) <= set(levels)


def test_lines_stand_in_the_order_of_the_table_whatever_the_order_of_the_rows():
    rows = [Row("parameter", "w", PASSED), Row("feature", "clean", PASSED), Row("configuration", "x", PASSED)]
    assert [s.line.title for s in summarise(rows)] == ["configuration", "features", "optimizer steps"]


def test_a_level_of_no_line_is_not_lost():
    (summary,) = summarise([Row("something new", "x", FAILED)])
    assert (summary.line.title, summary.status) == ("something new", FAILED)


def test_a_line_without_rows_says_that_it_is_not_run():
    summaries = summarise([], [])
    assert {s.verdict for s in summaries} == {NOT_RUN}
    assert summaries[0].reasons == ["no case has it"]


def test_a_line_that_the_user_left_out_says_by_what(compared):
    job = replace(compared([]).nemo.job, until="loss")
    reasons = {s.line.title: s.absent for s in summarise([], [job, replace(job, until="feature")])}
    ended = "the computation ended with the level loss"
    assert reasons["gradients"] == reasons["optimizer steps"] == reasons["checkpoint files"] == ended
    assert reasons["loss"] == reasons["configuration"] == "no case has it"
    assert reasons["data"] == "no case has it (--manifest FILE gives one)"


def test_the_exit_code_tells_a_difference_from_what_could_not_be_compared(compared):
    passed, failed, broken, not_run = (compared([Row("loss", "x", s)]) for s in (PASSED, FAILED, BROKEN, NOT_RUN))
    codes = {
        0: [[passed], [passed, not_run]],
        1: [[failed, passed], [failed, broken]],
        3: [[passed, broken], [not_run], []],
    }
    for code, reports in codes.items():
        assert [Report(comparisons, "").exit_code for comparisons in reports] == [code] * len(reports)
    assert Report([passed], "", versions=[Row("NeMo versions", "x", BROKEN)]).exit_code == 3


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        ([PASSED, PASSED], "passed"),
        ([PASSED, KNOWN, KNOWN], "passed, 2 known"),
        ([PASSED, FAILED, KNOWN, NOT_RUN], "1 failed, 1 known, 1 not run"),
        ([KNOWN], "1 known"),
        ([PASSED, NOT_RUN], "passed, 1 not run"),
        ([NOT_RUN], "1 not run"),
    ],
)
def test_a_verdict_counts_what_is_no_plain_pass(statuses, verdict):
    (summary,) = summarise([Row("loss", str(i), status) for i, status in enumerate(statuses)])
    assert summary.verdict == verdict
    assert summary.compared == len(statuses) - statuses.count(NOT_RUN)


def test_the_worst_row_is_that_nearest_to_its_own_limit():
    near, far = Row("layer", "0", PASSED, 5e-5, 1e-4), Row("layer", "1", PASSED, 1e-3, 1e-1)
    assert summarise([far, near])[0].worst is near


def test_a_failure_is_worse_than_any_pass():
    wrong = Row("configuration", "x", FAILED)
    assert summarise([Row("configuration", "y", PASSED), wrong])[0].worst is wrong


@pytest.mark.parametrize(
    ("row", "share"),
    [
        (Row("x", "x", PASSED, 1e-4, 1e-3), 0.1),
        (Row("x", "x", PASSED), 0.0),
        (Row("x", "x", FAILED, 0.5, 0.0), float("inf")),
        (Row("x", "x", FAILED), float("inf")),
        (Row("x", "x", FAILED, float("nan"), 1e-3), float("inf")),
        (Row("x", "x", FAILED, float("inf"), 1e-3), float("inf")),
    ],
)
def test_the_share_of_a_limit_is_a_number_also_where_the_error_is_none(row, share):
    assert share_of_limit(row) == pytest.approx(share)


def test_a_case_that_nemo_cannot_do_is_not_run_and_one_without_rows_fails(comparisons, compared):
    assert [case_status(c) for c in comparisons] == [PASSED, FAILED, FAILED, FAILED, NOT_RUN]
    assert case_status(compared([])) == FAILED


def test_all_has_passed_only_if_something_has_and_nothing_failed(comparisons, compared):
    passed, failed, *_, not_run = comparisons
    assert Report([passed, not_run], "").passed
    assert not Report([], "").passed
    assert not Report([not_run], "").passed
    assert not Report([passed, failed], "").passed
    assert not Report([passed, compared([])], "").passed
    assert not Report([passed], "", versions=[Row("versions", "x", FAILED)]).passed


def test_the_last_line_counts(passing, report, compared, comparisons):
    beside = "1 differ on purpose; 1 not run; 1 of 2 cases not comparable"
    assert passing.verdict == f"PASSED: 7 things in 1 case equal NeMo 3.0.0; {beside}"
    assert report.verdict.startswith("FAILED: 4 of 14 things, in 3 of 5 cases, differ from NeMo 3.0.0")
    assert Report([], "").verdict.startswith("FAILED: nothing was compared")
    assert Report([comparisons[0], compared([])], "").verdict.startswith("FAILED: nothing was compared in 1 of 2 cases")
