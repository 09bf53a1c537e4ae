"""The report as text for a console of 80 columns that knows ASCII only."""

import os
import textwrap
from collections.abc import Iterator

WIDTH = 79
MARGIN = 12  # counts stand left of it, what is counted right
FIRST_FEW = 5
EXAMPLES = 3
LONGEST_BAR = 40
SHORTEST_PATH = 24
LONGEST_DETAIL, QUOTED = 180, 40
UNITS = {"h": 3600.0, "min": 60.0, "s": 1.0}  # the largest that is reached


def in_words(report: dict) -> str:
    parts = [summary(report), rejects(report), audio(report), histogram(report), findings(report)]
    return "\n\n".join("\n".join(lines) for lines in map(list, parts) if lines)


def ascii_only(text: str) -> str:
    """Other characters, as in file names, become escapes; so do line breaks and control characters."""
    printable = "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in text)
    return printable.encode("ascii", "backslashreplace").decode()


def fit(text: str, width: int) -> str:
    """Cut on the left, where paths differ least."""
    text = ascii_only(text)
    return text if len(text) <= width else f"...{text[3 - width :]}"


def squeezed(text: str) -> str:
    """Cut after its start, where a detail quotes the line; its end says what to do."""
    text = ascii_only(text)
    if len(text) <= LONGEST_DETAIL:
        return text
    return f"{text[:QUOTED]}...{text[QUOTED - LONGEST_DETAIL :]}"


def number(size: float | None) -> str:
    """'8000', '0.617'; '' for none."""
    if size is None:
        return ""
    return f"{size:.0f}" if abs(size) >= 1000 else f"{size:.4g}"


def wrapped(text: str, start: str = "") -> list[str]:
    """Lines behind a margin; `start` stands in the margin of the first."""
    margin = " " * MARGIN
    return textwrap.wrap(ascii_only(text), WIDTH, initial_indent=f"{start:<{MARGIN}}", subsequent_indent=margin)


def counted(count: int, text: str) -> list[str]:
    return wrapped(text, f"{count:>{MARGIN - 2}}")


def listed(entry: dict, report: dict, note: str) -> str:
    """Where a line stands and which file it names."""
    alone = len(report["manifests"]) == 1
    where = "line " if alone else f"{ascii_only(os.path.basename(entry['manifest']))}:"
    head = fit(f"{where}{entry['line']}: {note}", WIDTH - MARGIN - SHORTEST_PATH)
    path = os.path.normpath(entry["path"]) if entry["path"] else ""
    return f"{'':{MARGIN}}{head}  {fit(path, WIDTH - MARGIN - 2 - len(head))}".rstrip()


def in_words_of_time(seconds: float) -> str:
    unit = next(unit for unit in UNITS if seconds >= UNITS[unit] or unit == "s")
    return f"{seconds / UNITS[unit]:.2f} {unit}"


def summary(report: dict) -> Iterator[str]:
    manifests = report["manifests"]
    yield (
        f"{report['lines']} lines of {len(manifests)} manifest{'s' * (len(manifests) > 1)}: {report['used']} used "
        f"({in_words_of_time(3600 * report['hours']['measured'])}), {report['rejected']} rejected"
    )
    if not report["used"]:
        yield "Nothing is left to use: a run would stop at once."
    for name in ("below_min_duration", "above_max_duration"):
        if report[name]:
            yield from counted(report[name], f"left out, {name.replace('_m', ' --m')}")
    if len(manifests) > 1:
        yield f"  {'lines':>9} {'used':>9} {'rejected':>9} {'hours':>9}  manifest"
        for one in manifests:
            counts = f"  {one['lines']:>9} {one['used']:>9} {one['rejected']:>9} {one['hours']['measured']:>9.2f}  "
            yield counts + fit(one["path"], WIDTH - len(counts))


def rejects(report: dict) -> Iterator[str]:
    if not report["rejected"]:
        return
    yield "Rejected: a data set leaves these lines out"
    for reason, count in report["rejected_by_reason"].items():
        if count:
            yield from counted(count, f"{reason}. {report['advice'][reason]}")
    yield f"  The first {min(FIRST_FEW, report['rejected'])}:"
    for bad in report["rejects"][:FIRST_FEW]:
        yield listed(bad, report, bad["reason"])
        yield from wrapped(squeezed(bad["detail"]))


def audio(report: dict) -> Iterator[str]:
    if not report["used"]:
        return
    hours = report["hours"]
    yield "Used audio"
    for title, name in {"Hz": "sample_rates", "channels": "channels", "format": "formats"}.items():
        yield from wrapped(", ".join(f"{value} ({count})" for value, count in report[name].items()), f"  {title}")
    yield from wrapped(f"{hours['measured']:.3f} measured, {hours['stated']:.3f} stated", "  hours")
    yield from wrapped(
        f"{report['clipped_share']:.2e} of the samples at full scale; mean DC offset {report['dc_offset_mean']:.1e}",
        "  levels",
    )


def histogram(report: dict) -> Iterator[str]:
    if not report["used"]:
        return
    most = max(one["lines"] for one in report["histogram"])
    yield "Seconds per line: " + ", ".join(f"{name} {value:.2f}" for name, value in report["seconds"].items())
    for one in report["histogram"]:
        bar = "#" * -(-one["lines"] * LONGEST_BAR // most)
        yield f"  {one['from']:>8.4g} to {one['to']:>8.4g} {one['lines']:>9}  {bar}".rstrip()


def findings(report: dict) -> Iterator[str]:
    found = [finding for finding in report["findings"].values() if finding["lines"]]
    if report["used"]:
        yield "Found in lines that are used" if found else "Nothing else was found."
    for finding in found:
        yield from counted(finding["lines"], f"{finding['says']}. {finding['advice']}")
        for example in finding["examples"][:EXAMPLES]:
            yield listed(example, report, number(example["size"]))
