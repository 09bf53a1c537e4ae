"""The JSON is strict, and everything is in it."""

import json

import pytest

from tools.parity.compare import compare_with
from tools.parity.records import kept
from tools.parity.report.as_json import to_json
from tools.parity.report.summary import Report


def strictly(text: str) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_everything_is_in_it(report, comparisons):
    read = strictly(to_json(report))
    assert (read["passed"], read["verdict"], read["source"]) == (False, report.verdict, report.source)
    assert [case["name"] for case in read["cases"]] == [c.name for c in comparisons]
    assert [case["status"] for case in read["cases"]] == ["passed", "failed", "failed", "failed", "not run"]
    passed, failed = read["cases"][:2]
    assert (passed["culprit"], passed["cause"]) == (None, None)
    assert (failed["culprit"]["module"], failed["cause"]) == ("layers.0", "block order")
    assert failed["culprit"]["file"] == "parts/submodules/conformer_block.py"
    assert failed["origin"]["nemo"]["nemo_version"] == "3.0.0"
    assert failed["rows"][0]["detail"] == "[0, 3, 2]: 1.5 instead of 0.25"
    assert failed["rows"][0]["share_of_limit"] == pytest.approx(5000)
    assert read["speed"][0]["times_better"] == pytest.approx([2.0, 2.0, 2.1 / 0.9])
    assert read["versions"][0]["what"] == "max_mask_ratio"


def test_what_is_not_finite_is_text(report):
    rows = strictly(to_json(report))["cases"][2]["rows"]
    assert [row["error"] for row in rows] == ["inf", "nan"]


def test_any_text_comes_back(report, comparisons):
    case = strictly(to_json(report))["cases"][3]
    assert case["name"] == comparisons[3].name
    assert case["config"] == comparisons[3].nemo.job.case.config


def test_it_can_be_written_whatever_a_file_is_called(compared):
    to_json(Report([compared([], name="\udcff")], "")).encode("utf-8")


def test_a_kept_record_makes_json(tmp_path):
    comparison = compare_with(kept("encoder_default"), tmp_path)
    read = strictly(to_json(Report([comparison], "records")))
    assert read["cases"][0]["config"]["d_model"] == 8
    assert len(read["cases"][0]["rows"]) == len(comparison.rows)


def test_an_empty_report_makes_json():
    read = strictly(to_json(Report([], "")))
    assert (read["passed"], read["cases"]) == (False, [])
