"""The parity table of the READMEs."""

import re
from dataclasses import replace

import pytest

from tools.parity.compare import Comparison, compare_with
from tools.parity.records import kept
from tools.parity.report.chinese import CHINESE
from tools.parity.report.markdown import END, HEADINGS, START, parity_table, replace_table
from tools.parity.report.summary import LINES
from tools.parity.rows import FAILED, KNOWN, NOT_RUN, PASSED, Row


@pytest.fixture(scope="module")
def kept_comparison(tmp_path_factory) -> Comparison:
    return compare_with(kept("model_pre_conv_2_books"), tmp_path_factory.mktemp("kept"))


def columns(table: str) -> list[list[str]]:
    return [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("|")]


def test_a_level_is_a_line_with_its_limits_and_why(compared):
    rows = [Row("layer", str(i), PASSED, 1e-6, 1e-4) for i in range(2)] + [
        Row("training_layer", "0", PASSED, 0.0, 2e-4)
    ]
    table = parity_table([compared([*rows, Row("length", "steps", PASSED)])])
    assert [line for line in table.splitlines() if line.startswith("|")][2:] == [
        "| lengths | frames and encoder steps | 1 | 0 | counts have no rounding | equal |",
        "| encoder layers | each, evaluation and training | 3 | 1e-4 to 2e-4 of the largest entry | likewise; "
        "in training the batch's statistics add to it | all within |",
    ]
    assert table.splitlines()[-1] == "4 things in 1 case, compared with NeMo 3.0.0."


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [([0.0], "0"), ([1e-4, 1e-4], "1e-4"), ([1e-4, 2e-4], "1e-4 to 2e-4"), ([0.0, 0.25, 0.1], "up to 0.25")],
)
def test_the_difference_allowed_is_a_limit_or_a_range_of_them(limits, allowed, compared):
    rows = [Row("data", str(limit), PASSED, 0.0, limit) for limit in limits]
    assert columns(parity_table([compared(rows)]))[-1][3] == allowed


def test_what_is_not_run_has_no_limit(compared):
    assert columns(parity_table([compared([Row("data", "x", NOT_RUN)])]))[-1][2:4] == ["0", ""]


def test_failures_and_known_differences_are_counted(compared):
    rows = [Row("configuration", "a", PASSED), Row("configuration", "b", KNOWN), Row("loss", "loss", FAILED, 1.0)]
    configuration, loss = columns(parity_table([compared(rows)]))[2:]
    assert configuration[-1].strip() == "equal, 1 differ on purpose"
    assert loss[-1].strip() == "1 failed"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_is_the_same_whatever_the_rounding_of_the_machine(language, kept_comparison):
    other = [replace(row, error=row.error + 0.9 * row.limit) for row in kept_comparison.rows]
    assert parity_table([replace(kept_comparison, rows=other)], language) == parity_table([kept_comparison], language)


def test_the_chinese_table_has_the_same_numbers(kept_comparison):
    english, chinese = (columns(parity_table([kept_comparison], language)) for language in ("en", "zh"))
    assert [row[2] for row in english[1:]] == [row[2] for row in chinese[1:]]
    assert [row[0] for row in chinese] != [row[0] for row in english]


def test_nothing_of_the_chinese_table_is_english():
    lines = [word for line in LINES for word in (line.title, line.what, line.why, line.unit) if word]
    assert set(lines) - set(CHINESE) == set()
    names = {"FFT", "float32", "ReLU", "Adam", "NeMo"}
    for word in (*lines, *HEADINGS):
        assert set(re.findall(r"[A-Za-z]\w{2,}", CHINESE[word])) <= names


def test_reasons_are_short():
    assert max(len(line.why.split()) for line in LINES) <= 12


def test_what_would_break_a_cell_is_escaped(compared):
    assert r"a\|b &lt;i>" in parity_table([compared([Row("a|b\n<i>", "x", PASSED)])])


def test_a_language_that_is_not_there_is_refused_by_name():
    with pytest.raises(ValueError, match=r"language='fr' is not one of \['en', 'zh'\]"):
        parity_table([], "fr")


def test_a_table_stands_between_its_markers_and_the_rest_stays():
    text = f"before\n\n{START}\nold\n{END}\n\nafter\n"
    new = replace_table(text, "| new |")
    assert new == f"before\n\n{START}\n| new |\n{END}\n\nafter\n"
    assert replace_table(new, "| new |") == new


@pytest.mark.parametrize("text", ["", START, END, f"{END}{START}"])
def test_a_text_without_markers_is_refused(text):
    with pytest.raises(ValueError, match="no place for the parity table"):
        replace_table(text, "")
