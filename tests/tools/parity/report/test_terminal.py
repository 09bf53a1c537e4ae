"""The report in a terminal, in a pipe, on a console of few characters."""

import io

import pytest

from tools.parity.report.summary import LINES, Report
from tools.parity.report.terminal import FEW, WIDTH, progress, show
from tools.parity.rows import BROKEN, FAILED, KNOWN, NOT_RUN, PASSED, Row


def shown(report: Report, **options) -> str:
    file = io.StringIO()
    show(report, file=file, **options)
    return file.getvalue()


def told(report: Report, **options) -> str:
    """Without line breaks."""
    return " ".join(shown(report, **options).split())


def test_there_is_one_line_per_level(passing):
    text = shown(passing)
    for line in LINES[:-1]:
        assert sum(f"{line.title} " in part and "│" in part for part in text.splitlines()) >= 1, line.title
    assert told(passing).endswith(passing.verdict)


def test_a_failure_names_the_module_the_place_the_cause_and_the_rows(report):
    text = told(report)
    assert "a_layer_differs: 1 of 4 things differ" in text
    assert "layers.0 (ConformerBlock, parts/submodules/conformer_block.py), in evaluation" in text
    assert "where: [0, 3, 2]: 1.5 instead of 0.25" in text
    assert "likely cause: block order" in text
    assert "layer/0: differs by 0.5 of the largest entry, limit 1e-4" in text
    assert "ours raised: ValueError: no" in text
    assert "all_passed:" not in text.partition("known differences:")[0]
    assert report.verdict in text


def test_only_the_first_few_of_many_failures_are_shown_unless_all_are_asked_for(compared):
    report = Report([compared([Row("gradient", f"w{i}", FAILED, 1.0, 1e-3) for i in range(FEW + 3)])], "")
    assert f"gradient/w{FEW - 1}:" in shown(report)
    assert f"gradient/w{FEW}:" not in shown(report)
    assert "and 3 more" in shown(report)
    assert f"gradient/w{FEW + 2}:" in shown(report, verbose=True)


def test_known_differences_and_what_is_not_run_are_told_with_their_reasons(compared):
    rows = [Row("configuration", f"key{i}", KNOWN, reason="ours alone", detail=f"{i}") for i in range(9)]
    report = Report([compared([Row("loss", "loss", PASSED), *rows])], "")
    assert "- ours alone key0 in case, and 8 more" in told(report)
    assert "key8 in case: 8" in told(report, verbose=True)


def test_what_is_not_run_says_why(report):
    assert "- NeMo 2.6.0 has no such thing tarred in only_not_run" in told(report)


def test_speed_is_shown(report):
    assert "training step │ 1 s │ 2.1 s │ 2.00 │ 2.00 to 2.33" in told(report)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437", "utf-8"])
@pytest.mark.parametrize("verbose", [False, True])
def test_it_can_be_written_in_any_encoding_without_steering_a_terminal(report, encoding, verbose):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)  # strict: raises for what it can't encode
    show(report, file=file, verbose=verbose)
    progress(report.comparisons[3], file)
    file.flush()
    text = raw.getvalue().decode(encoding)
    assert "\x1b" not in text
    assert "[bold]$x_1$" in text
    assert "FAILED: 4 of 14 things" in text


@pytest.mark.parametrize("width", [40, 70, WIDTH, 200])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(report, width):
    text = shown(report, width=width)
    assert max(map(len, text.splitlines())) <= width
    if width >= 70:
        assert "0.5 │  1e-4 │" in text


def test_the_width_of_a_pipe_is_that_of_a_log(passing):
    assert max(map(len, shown(passing).splitlines())) <= WIDTH


def test_a_case_that_is_done_has_a_line(comparisons, capsys):
    for comparison in (comparisons[0], comparisons[1], comparisons[4]):
        progress(comparison)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "all_passed: passed, 8 things",
        "a_layer_differs: failed, 4 things",
        "only_not_run: not run, 1 thing",
    ]


def test_nothing_compared_is_a_failure():
    assert "FAILED: nothing was compared" in shown(Report([], ""))


def test_the_reason_of_most_rows_comes_first_and_long_ones_stay_indented(compared):
    rows = [
        Row("data", "a", KNOWN, reason="rare"),
        *(Row("data", str(i), KNOWN, reason="common " * 30) for i in range(2)),
    ]
    text = shown(Report([compared([Row("loss", "loss", PASSED), *rows])], ""))
    assert text.index("- common") < text.index("- rare")
    start = text.index("known differences:")
    lines = text[start : text.index("PASSED:")].splitlines()[1:]
    assert len(lines) > 5
    assert all(line.startswith(("  - ", "    ")) for line in lines if line)


def test_every_limit_is_explained_only_where_all_is_asked_for(report):
    assert "encoder layers: 1e-4 of the largest entry: rounding" in told(report, verbose=True)
    assert "every limit:" not in told(report)


def test_every_row_is_shown_by_case_and_level_where_all_is_asked_for(report):
    text = shown(report, verbose=True)
    start = text.index("all_passed, all of it:")
    case = text[start : text.index("a_layer_differs, all of it:")]
    assert "  encoder layers: passed\n    passed: layer/0: differs by 1e-8 of the largest entry, limit 1e-4\n" in case
    assert sum(line.startswith("    passed: ") for line in case.splitlines()) == 7
    assert "all of it" not in shown(report)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_why_a_limit_is_what_it_is_stands_there_whole_at_any_width(passing, width):
    text = told(passing, width=width)
    assert all(" ".join(line.why.split()) in text for line in LINES if line.title in ("encoder layers", "gradients"))


def test_a_pipe_is_as_wide_as_columns_says(passing, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, shown(passing).splitlines())) <= 80


def test_what_nemo_raised_is_told_without_asking_for_all(compared):
    rows = [
        Row("computation", "NeMo raised", NOT_RUN, reason="NeMo can't build it", detail=f"ValueError: {i}")
        for i in "ab"
    ]
    report = Report([compared([row], name) for row, name in zip(rows, "xy")], "")
    assert "NeMo can't build it: ValueError: a" in told(report) and "NeMo can't build it: ValueError: b" in told(report)


def test_a_case_at_which_nemos_process_failed_says_its_last_words(compared):
    row = Row("computation", "NeMo's process", BROKEN, reason="it failed", detail="was killed by signal 9")
    report = Report([compared([row], "x"), compared([Row("loss", "loss", PASSED)], "y")], "")
    assert "it failed: was killed by signal 9 NeMo's process in x" in told(report)
    assert "1 broken off" in report.verdict and not report.passed
