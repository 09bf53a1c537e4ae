"""How numbers, rows and classes are put into words, the same in each output."""

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tools.benchmark.figures import Figure
from tools.parity.compare import Comparison
from tools.parity.comparison import TOLERANCES, in_norm, in_range, unequal
from tools.parity.diagnosis.culprit import Culprit
from tools.parity.report.summary import Summary, share_of_limit
from tools.parity.rows import FAILED, NOT_RUN, Row
from tools.parity.trace import EVALUATION, TRAINING

ROOT = Path(__file__).resolve().parents[3]
UNITS = {unequal: "of the entries", in_range: "of the largest entry", in_norm: "of the norm"}


def number(value: float) -> str:
    """Two digits: `0.53`, `1e-4`, `inf`."""
    if value != value or value in (0, float("inf"), float("-inf")) or 1e-2 <= abs(value) < 1e4:
        return f"{value:.2g}" if abs(value) < 100 else f"{value:.4g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def unit(row: Row) -> str:
    """What error and limit of the row are shares of; "" where its reason says so."""
    return UNITS.get(TOLERANCES[row.level].error, "") if row.level in TOLERANCES else ""


def share(row: Row) -> str:
    """Error in units of the limit, in percent."""
    value = share_of_limit(row)
    if not value:
        return "0 %"
    if value == float("inf"):
        return "over"
    return "<0.1 %" if value < 0.001 else f"{100 * value:.3g} %" if value < 10 else f"{value:.3g} x"


def worst_cells(summary: Summary) -> tuple[str, str, str, str]:
    """Largest difference, limit, its share of the limit, and why; what can't be told is empty."""
    worst = summary.worst
    if worst is None:
        return "", "", "", "; ".join(summary.reasons)
    error = "differs" if worst.status == FAILED and not worst.error else number(worst.error)
    return error, number(worst.limit), share(worst), worst.reason


def speed_cells(figure: Figure) -> tuple[str, str, str, str]:
    """Ours, NeMo's, their ratio, its spread; empty where a side wasn't measured."""
    ours, nemo = (f"{median(side):.3g} {figure.unit}" if side else "" for side in (figure.ours, figure.nemo))
    ratios = figure.ratios
    if not ratios:
        return ours, nemo, "", ""
    return ours, nemo, f"{median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"


def name_of(row: Row) -> str:
    return f"{row.level}/{row.what}"


def how_far(row: Row) -> str:
    """What differs, by how much, where."""
    if row.status == NOT_RUN:
        return ""
    beyond = f"differs by {number(row.error)} {unit(row)}".strip() + f", limit {number(row.limit)}"
    return "; ".join(part for part in (beyond if row.error or row.limit else "", row.detail) if part)


def class_and_file(class_path: str) -> tuple[str, str]:
    """`a.b.Name` -> its name and its file from the project's root, "" where the class isn't of this project; `a.b`, a
    file of functions, has no name."""
    parts = class_path.split(".")
    for end in range(len(parts), 0, -1) if class_path else ():
        for file in (Path(*parts[:end]).with_suffix(".py"), Path(*parts[:end], "__init__.py")):
            if (ROOT / file).is_file():
                return ".".join(parts[end:]), file.as_posix()
    return class_path, ""


def culprit_lines(comparison: Comparison) -> list[tuple[str, str]]:
    """What is known of the place of a failure, as heading and text."""
    lines = [*place_lines(comparison.culprit)] if comparison.culprit else [*first_lines(comparison)]
    return [*lines, ("likely cause", comparison.cause)] if comparison.cause else lines


def place_lines(culprit: Culprit) -> Iterator[tuple[str, str]]:
    where = ", in ".join(told for told in (told_class(culprit.class_name), told_class(culprit.owner)) if told)
    if culprit.owner == culprit.class_name:
        where = told_class(culprit.class_name)
    when = {EVALUATION: ", in evaluation", TRAINING: ", in training"}.get(culprit.phase, "")
    yield "first module that diverges", f"{culprit.module}{f' ({where})' if where else ''}{when}"
    yield "how that shows", culprit.reason
    if math.isfinite(culprit.error):
        port = f", in its output {culprit.port}" if culprit.port else ""
        yield "by how much", f"{number(culprit.error)} of NeMo's largest entry{port}"
    yield "where", culprit.detail


def first_lines(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for row in comparison.failed[:1]:
        yield "first difference", name_of(row)
        if row.module:
            yield "module", row.module


def told_class(class_path: str) -> str:
    """Name, and file if it is this project's."""
    return ", ".join(part for part in class_and_file(class_path) if part)
