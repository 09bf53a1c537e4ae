"""The parity table of the READMEs."""

from dataclasses import replace

import pytest

from tools.parity.compare import Comparison, compare_with
from tools.parity.comparison import TOLERANCES
from tools.parity.records import kept
from tools.parity.report.chinese import CHINESE
from tools.parity.report.markdown import END, START, parity_table, replace_table
from tools.parity.report.summary import LINES
from tools.parity.rows import FAILED, KNOWN, PASSED, Row


@pytest.fixture(scope="module")
def kept_comparison(tmp_path_factory) -> Comparison:
    return compare_with(kept("model_pre_conv_2_books"), tmp_path_factory.mktemp("kept"))


def columns(table: str) -> list[list[str]]:
    return [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("|")]


def test_a_level_is_a_line_with_its_limits_and_reasons(compared):
    rows = [Row("layer", "0", PASSED, 1e-6, 1e-4, "rounding"), Row("layer", "1", PASSED, 1e-6, 1e-4, "rounding")]
    rows += [
        Row("training_layer", "0", PASSED, 1e-6, 2e-4, "statistics"),
        Row("length", "steps", PASSED, reason="counts"),
    ]
    table = parity_table([compared(rows)])
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert lines[2:] == [
        "| lengths | frames and encoder steps of each utterance | 1 | 0: counts | equal |",
        "| encoder layers | outputs of each, in evaluation and training | 3 | 1e-4 of the largest entry: rounding; "
        "2e-4 of the largest entry: statistics | all within |",
    ]
    assert table.splitlines()[-1] == "4 things in 1 cases, compared with NeMo 3.0.0."


def test_many_reasons_for_nothing_are_not_told_and_one_reason_for_many_limits_is_told_once(compared):
    rows = [Row("data", "a", PASSED, reason="counts"), Row("data", "b", PASSED, reason="copies")]
    rows += [Row("data", str(limit), PASSED, 0.0, limit, "seeds") for limit in (0.25, 0.12, 0.2)]
    assert columns(parity_table([compared(rows)]))[-1][3] == "0; 0.12 to 0.25: seeds"


def test_failures_and_known_differences_are_counted(compared):
    rows = [Row("configuration", "a", PASSED), Row("configuration", "b", KNOWN), Row("loss", "loss", FAILED, 1.0)]
    configuration, loss = columns(parity_table([compared(rows)]))[2:]
    assert configuration[-1].strip() == "equal, 1 differ on purpose"
    assert loss[-1].strip() == "1 failed"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_is_the_same_whatever_the_rounding_of_the_machine(language, kept_comparison):
    other = [replace(row, error=row.error + 0.9 * row.limit) for row in kept_comparison.rows]
    assert parity_table([replace(kept_comparison, rows=other)], language) == parity_table([kept_comparison], language)


def test_the_chinese_table_has_the_same_numbers_and_no_english(kept_comparison):
    english, chinese = (columns(parity_table([kept_comparison], language)) for language in ("en", "zh"))
    assert [row[2] for row in english[1:]] == [row[2] for row in chinese[1:]]
    assert [row[0] for row in chinese] != [row[0] for row in english]


def test_every_line_and_every_reason_of_the_computation_has_chinese_words():
    words = {line.title for line in LINES[:-1]} | {line.what for line in LINES[:-1]}
    words |= {tolerance.reason for tolerance in TOLERANCES.values()}
    assert words - set(CHINESE) == set()


def test_what_would_break_a_cell_is_escaped(compared):
    table = parity_table([compared([Row("loss", "loss", PASSED, 0.0, 1.0, "a|b\n<i>")])])
    assert r"a\|b &lt;i>" in table


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
