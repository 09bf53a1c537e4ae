"""The table of README.md and README.zh-CN.md: what is compared, and how far apart the two sides may be.

The differences themselves change with the processor's rounding, so the table has their limits: it is the same on every
machine on which all passes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from tools.parity.compare import Comparison
from tools.parity.report.chinese import CHINESE
from tools.parity.report.summary import Report, Summary, counted
from tools.parity.report.words import number
from tools.parity.rows import BROKEN, FAILED, KNOWN, NOT_RUN, PASSED

START = "<!-- parity table: tools/compare_with_nemo.py --markdown -->"
END = "<!-- end of parity table -->"
LANGUAGES: dict[str, Mapping[str, str]] = {"en": {}, "zh": CHINESE}  # language: what differs from English
HEADINGS = ("level", "what is compared", "things", "difference allowed", "why", "result")
COUNTED = {
    FAILED: "{} failed", BROKEN: "{} broken off", KNOWN: "{} differ on purpose", NOT_RUN: "{} not run",
}  # fmt: skip
Translate = Callable[[str], str]


def parity_table(comparisons: Sequence[Comparison], language: str = "en") -> str:
    """A line per level over all cases, and how much was compared with which NeMo; without markers.

    language: a key of LANGUAGES; else ValueError.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language={language!r} is not one of {sorted(LANGUAGES)}")
    words = LANGUAGES[language]
    report = Report(comparisons, source="")
    rows = [HEADINGS, ("---", "---", "--:", "---", "---", "---")]
    lines = [in_row(words.get(cell, cell) for cell in row) for row in rows]
    summaries = [summary for summary in report.summaries if summary.rows]
    lines += [in_row(cells(summary, lambda text: words.get(text, text))) for summary in summaries]
    total = "{things} in {cases}, compared with {nemo}."
    things = sum(summary.compared for summary in summaries)
    numbers = {"things": counted(things, "thing"), "cases": counted(len(comparisons), "case"), "nemo": report.nemo}
    if language != "en":
        numbers |= {"things": things, "cases": len(comparisons)}
    lines += ["", words.get(total, total).format(**numbers)]
    return "\n".join(lines)


def cells(summary: Summary, translate: Translate) -> list[str]:
    line = summary.line
    allowed = difference_allowed(summary, translate)
    return [
        translate(line.title), translate(line.what), str(summary.compared), allowed, translate(line.why),
        result(summary, translate),
    ]  # fmt: skip


def difference_allowed(summary: Summary, translate: Translate) -> str:
    """`0`, `1e-4 of the norm`, `1e-4 to 2e-4`, or `up to 1e-6` where some of it may not differ at all."""
    limits = [row.limit for row in summary.rows if row.status in (PASSED, FAILED)]
    lowest, highest = number(min(limits, default=0.0)), number(max(limits, default=0.0))
    if highest == "0":
        return "0" if limits else ""
    form = "{1}" if lowest == highest else "up to {1}" if lowest == "0" else "{0} to {1}"
    return translate("{} {}").format(translate(form).format(lowest, highest), translate(summary.line.unit)).strip()


def result(summary: Summary, translate: Translate) -> str:
    words = []
    if summary.count(PASSED) and not summary.count(FAILED):
        words.append(translate("all within" if any(row.limit for row in summary.rows) else "equal"))
    for status, text in COUNTED.items():
        if summary.count(status):
            words.append(translate(text).format(summary.count(status)))
    return translate(", ").join(words)


def in_row(cells: Iterable[str]) -> str:
    escaped = (" ".join(cell.split()).replace("|", r"\|").replace("<", "&lt;") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def replace_table(text: str, table: str) -> str:
    """The text with `table` between its markers. Raises ValueError where it has none."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"no place for the parity table: put the lines {START!r} and {END!r} into the text")
    return f"{before}{START}\n{table}\n{END}{after}"
