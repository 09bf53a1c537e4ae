"""The report as a table and a few lines of text: in colour in a terminal, plain in a pipe, in whatever encoding."""

import os
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tools.benchmark.figures import Figure
from tools.parity.compare import Comparison
from tools.parity.report.summary import Report, Summary, case_status, counted, summarise
from tools.parity.report.words import culprit_lines, how_far, name_of, number, speed_cells, unit, worst_cells
from tools.parity.rows import BROKEN, FAILED, KNOWN, NOT_RUN, PASSED, Row

STYLES = {PASSED: "green", FAILED: "bold red", BROKEN: "bold red", KNOWN: "yellow", NOT_RUN: "dim"}
WIDTH = 100  # of a pipe, if COLUMNS doesn't say
HEADINGS = ("level", "things", "worst", "limit", "of limit", "result")
TOLD = {BROKEN: "broken off", KNOWN: "known differences", NOT_RUN: "not run"}  # status: title of its reasons
FEW = 5  # failed rows per case, known differences in all


def show(report: Report, *, verbose: bool = False, file: TextIO | None = None, width: int | None = None) -> None:
    """Print the report. verbose: every row, by case and level. file: stdout. width: of the terminal, or WIDTH."""
    console = open_console(file or sys.stdout, width)
    console.print(printable(f"this project against {report.source}"))
    show_levels(console, report.summaries)
    if verbose:
        show_limits(console, report.summaries)
        show_rows(console, report.comparisons)
    for comparison in report.comparisons:
        for note in comparison.nemo.job.notes:
            console.print(printable(f"{comparison.name}: {note}"))
        if case_status(comparison) == FAILED:
            show_failure(console, comparison, verbose)
    differing = [(c.name, row) for c in report.comparisons for row in c.rows]
    differing += [("versions", row) for row in report.versions]
    for status, title in TOLD.items():
        show_reasons(console, title, [(name, row) for name, row in differing if row.status == status], verbose)
    show_versions(console, [row for row in report.versions if row.status == FAILED])
    if report.speed:
        console.print(speed_table(report.speed))
    console.print(report.verdict, style=STYLES[PASSED if report.passed else FAILED])


def progress(comparison: Comparison, file: TextIO | None = None) -> None:
    """A line to stderr when a case is done, for those who wait."""
    status = case_status(comparison)
    say(f"{comparison.name}: {status}, {counted(len(comparison.rows), 'thing')}", STYLES[status], file)


def say(text: str, style: str | None = None, file: TextIO | None = None) -> None:
    """A line to stderr, if somebody reads it."""
    with suppress(BrokenPipeError):
        open_console(file or sys.stderr, None).print(printable(text), style=style)


class PipedConsole(Console):
    """Leaves it to its user what a closed pipe means; rich exits with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def open_console(file: TextIO, width: int | None) -> Console:
    """Text is printed as it is: no markup (indices stand in brackets), no colour for numbers."""
    if width is None and not file.isatty() and not os.environ.get("COLUMNS", "").isdecimal():
        width = WIDTH
    return PipedConsole(file=Encodable(file), width=width, markup=False, highlight=False, emoji=False)


class Encodable:
    """A text file to which anything can be written: what its encoding hasn't becomes `?`."""

    def __init__(self, file: TextIO):
        self.file = file
        self.encoding = getattr(file, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        return self.file.write(text.encode(self.encoding, "replace").decode(self.encoding))

    def flush(self) -> None:
        self.file.flush()

    def isatty(self) -> bool:
        return self.file.isatty()

    def fileno(self) -> int:
        return self.file.fileno()


def show_levels(console: Console, summaries: list[Summary]) -> None:
    """A line per level, and why its limit is what it is: as a column where there is room, else below."""
    rows = [(s.line.title, str(s.compared), *worst_cells(s)[:3], s.verdict) for s in summaries]
    reasons = [printable(s.line.why if s.rows else s.absent) for s in summaries]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows)]
    room = console.width - sum(widths) - 3 * len(widths) - 2  # borders and padding; the last for the column itself
    fits = room >= max(map(len, reasons))
    table = Table(pad_edge=False)
    for i, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if 0 < i < 5 else "left", no_wrap=i < 5)
    if fits:
        table.add_column("why this limit", no_wrap=True)
    for summary, row, reason in zip(summaries, rows, reasons):
        table.add_row(*row[:-1], Text(row[-1], STYLES[summary.status]), *([reason] if fits else []))
    console.print(table)
    if not fits:
        console.print("why these limits:")
        titles: dict[str, list[str]] = {}
        for summary, reason in zip(summaries, reasons):
            titles.setdefault(reason, []).append(summary.line.title)
        for reason, of in titles.items():
            print_indented(console, f"{', '.join(of)}: {reason}", 2)


def show_failure(console: Console, comparison: Comparison, verbose: bool) -> None:
    """The first module that diverges, the likely cause, and the first rows that failed."""
    failed = comparison.failed
    words = f"{len(failed)} of {counted(len(comparison.rows), 'thing')} differ" if failed else "nothing was compared"
    console.print(f"\n{printable(comparison.name)}: {words}", style=STYLES[FAILED])
    for heading, text in culprit_lines(comparison):
        console.print(Padding(Text.assemble((f"{heading}: ", "bold"), printable(text)), (0, 0, 0, 2)))
    shown = failed if verbose else failed[:FEW]
    for row in shown:
        print_indented(console, row_text(row), 2)
    if len(failed) > len(shown):
        console.print(f"  and {len(failed) - len(shown)} more (--verbose shows them)")


def row_text(row: Row) -> str:
    """The reason of a limit stands in the table; it is told here where nothing else is."""
    return f"{name_of(row)}: {how_far(row) or row.reason}"


def show_rows(console: Console, comparisons: Sequence[Comparison]) -> None:
    """Every single comparison."""
    for comparison in comparisons:
        console.print(f"\n{printable(comparison.name)}, all of it:", style="bold")
        for summary in summarise(comparison.rows):
            console.print(f"  {printable(summary.line.title)}: {summary.verdict}")
            for row in summary.rows:
                print_indented(console, f"{row.status}: {row_text(row)}", 4)


def show_reasons(console: Console, title: str, rows: list[tuple[str, Row]], verbose: bool) -> None:
    """Each reason once, with what it holds for; that of most rows first. What NeMo raised is part of a reason."""
    reasons: dict[str, list[str]] = {}
    for case, row in rows:
        raised = row.detail and row.status in (BROKEN, NOT_RUN)
        detail = f": {row.detail}" if verbose and row.detail and not raised else ""
        reason = f"{row.reason}: {row.detail}" if raised else row.reason
        reasons.setdefault(reason, []).append(f"{row.what} in {case}{detail}")
    if reasons:
        console.print(f"\n{title}:", style=STYLES[rows[0][1].status])
    for reason, things in sorted(reasons.items(), key=lambda item: -len(item[1])):
        print_indented(console, f"- {reason}", 2)
        for thing in things if verbose else things[:1]:
            print_indented(console, thing + ("" if verbose or len(things) == 1 else f", and {len(things) - 1} more"), 6)


def print_indented(console: Console, text: str, columns: int) -> None:
    """Also where the text is wrapped; then behind the dash of an item."""
    indents = {"initial_indent": " " * columns, "subsequent_indent": " " * (columns + 2 * text.startswith("- "))}
    text = " ".join(printable(text).split())
    console.print(textwrap.fill(text, console.width, break_on_hyphens=False, **indents))


def show_limits(console: Console, summaries: list[Summary]) -> None:
    """Every limit and its reason."""
    console.print("\nevery limit:")
    for summary in summaries:
        limits = {(row.limit, unit(row), row.reason): None for row in summary.rows if row.status in (PASSED, FAILED)}
        for limit, share, reason in limits:
            print_indented(console, f"{summary.line.title}: {f'{number(limit)} {share}'.strip()}: {reason}", 2)


def show_versions(console: Console, rows: list[Row]) -> None:
    for row in rows:
        print_indented(console, row_text(row), 2)


def printable(text: str) -> str:
    """Without what would steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def speed_table(figures: Sequence[Figure]) -> Table:
    table = Table(title="speed and memory (medians; a ratio over 1: this project does better)", title_justify="left")
    table.add_column("figure")
    for column in ("this project", "NeMo", "ratio", "spread"):
        table.add_column(column, justify="right", no_wrap=True)
    for figure in figures:
        table.add_row(printable(figure.name), *speed_cells(figure))
    notes = dict.fromkeys(printable(figure.note) for figure in figures if figure.note)
    table.caption = "; ".join(notes) or None
    return table
