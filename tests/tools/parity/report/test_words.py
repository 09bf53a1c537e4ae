"""Numbers, places and ratios in words."""

import pytest

from tools.benchmark.figures import Figure
from tools.parity.diagnosis.culprit import RAISED, Culprit
from tools.parity.report.summary import summarise
from tools.parity.report.words import class_and_file, culprit_lines, number, share, speed_cells, worst_cells
from tools.parity.rows import FAILED, PASSED, Row


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (1e-4, "1e-4"), (1.26e-7, "1.3e-7"), (0.526, "0.53"), (3.61, "3.6"), (123.4, "123.4"),
        (1e30, "1e30"), (float("inf"), "inf"), (float("nan"), "nan"),
    ],
)  # fmt: skip
def test_a_number_has_two_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("error", "limit", "text"),
    [(0.0, 1e-4, "0 %"), (1e-9, 1e-4, "<0.1 %"), (5e-5, 1e-4, "50 %"), (1.0, 1e-4, "1e+04 x"), (1.0, 0.0, "over")],
)
def test_the_share_of_a_limit_is_told_in_percent_and_far_beyond_it_in_times(error, limit, text):
    assert share(Row("x", "x", FAILED if error > limit else PASSED, error, limit)) == text


def test_a_failure_without_a_number_differs():
    assert worst_cells(*summarise([Row("configuration", "x", FAILED, reason="same")]))[0] == "differs"


@pytest.mark.parametrize(
    ("path", "name", "file"),
    [
        ("parts.submodules.conformer_block.ConformerBlock", "ConformerBlock", "parts/submodules/conformer_block.py"),
        ("parts.preprocessing.segment", "", "parts/preprocessing/segment.py"),
        ("core.classes.Loss", "Loss", "core/classes/__init__.py"),
        ("parts.submodules.subsampling.Outer.Inner", "Outer.Inner", "parts/submodules/subsampling.py"),
        ("torch.nn.modules.linear.Linear", "torch.nn.modules.linear.Linear", ""),
        ("", "", ""),
    ],
)
def test_a_class_of_this_project_has_a_file(path, name, file):
    assert class_and_file(path) == (name, file)


def test_a_culprit_is_told_with_class_file_place_and_cause(comparisons):
    lines = dict(culprit_lines(comparisons[1]))
    module = "layers.0 (ConformerBlock, parts/submodules/conformer_block.py), in evaluation"
    assert lines["first module that diverges"] == module
    assert lines["by how much"] == "0.5 of NeMo's largest entry"
    assert lines["where"] == "[0, 3, 2]: 1.5 instead of 0.25"
    assert lines["likely cause"] == "block order"


def test_a_module_of_torch_is_told_with_the_class_of_ours_that_it_stands_in(compared):
    linear, owner = "torch.nn.modules.linear.Linear", "modules.conformer_encoder.ConformerEncoder"
    culprit = Culprit("layers.0.x", linear, "", float("inf"), "ValueError", owner=owner, reason=RAISED)
    lines = dict(culprit_lines(compared([Row("loss", "loss", FAILED)], culprit=culprit)))
    where = f"layers.0.x ({linear}, in ConformerEncoder, modules/conformer_encoder.py)"
    assert lines == {"first module that diverges": where, "how that shows": RAISED, "where": "ValueError"}


def test_without_a_culprit_the_first_difference_is_told_with_its_module(comparisons, compared):
    assert culprit_lines(comparisons[2]) == [("first difference", "loss/loss")]
    rows = [Row("data", "item 3", FAILED, module="data.ssl_dataset")]
    assert ("module", "data.ssl_dataset") in culprit_lines(compared(rows))
    assert culprit_lines(comparisons[0]) == []


def test_speed_is_a_ratio_with_its_spread_and_better_is_above_one():
    faster = Figure("step", "s", False, ours=[1.0, 1.0, 1.0], nemo=[2.0, 3.0, 4.0])
    assert speed_cells(faster) == ("1 s", "3 s", "3.00", "2.00 to 4.00")
    slower = Figure("data", "items/s", True, ours=[5.0], nemo=[10.0])
    assert speed_cells(slower) == ("5 items/s", "10 items/s", "0.50", "0.50 to 0.50")
    assert speed_cells(Figure("data", "items/s", True, ours=[5.0])) == ("5 items/s", "", "", "")
