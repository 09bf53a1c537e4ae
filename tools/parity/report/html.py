"""The report as one HTML file that needs nothing else: no network, no scripts, pictures inside."""

import base64
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from tools.parity.compare import Comparison
from tools.parity.report import words
from tools.parity.report.pictures import picture_of, speed_picture
from tools.parity.report.summary import Report, case_status, summarise
from tools.parity.rows import BROKEN, KNOWN, NOT_RUN

TEMPLATE = Path(__file__).with_name("report.html.jinja")


def to_html(report: Report) -> str:
    """What a browser opens; everything that comes from configs, paths and errors is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": words.number, "share": words.share, "unit": words.unit}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        report=report,
        origins=origins(report),
        overview=as_image(picture_of(report.comparisons)),
        cases=[case_of(comparison) for comparison in report.comparisons],
        worst_cells=words.worst_cells,
        speed=[(figure, words.speed_cells(figure)) for figure in report.speed],
        speed_picture=as_image(speed_picture(report.speed)),
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a file's name may hold what UTF-8 can't


def as_image(svg: str) -> str:
    """The address of an `img`; an SVG within its own document can't clash with another's ids."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}" if svg else ""


def case_of(comparison: Comparison) -> dict[str, Any]:
    """What the template shows of a case."""
    rows = comparison.rows
    job = comparison.nemo.job
    return {
        "name": comparison.name,
        "status": case_status(comparison),
        "notes": job.notes,
        "neutralised": job.neutralised,
        "class_path": job.case.class_path,
        "culprit": words.culprit_lines(comparison),
        "summaries": summarise(rows),
        "picture": as_image(picture_of([comparison])),
        "failed": comparison.failed,
        "beside": [row for row in rows if row.status in (BROKEN, KNOWN, NOT_RUN)],
        "configuration": [row for row in rows if row.level == "configuration"],
        "others": [row for row in rows if row.level != "configuration"],
        "config": json.dumps(job.case.config | job.own_options, indent=2, default=str),
        "files": {name: path for name in ("checkpoint", "manifest", "noise_manifest") if (path := getattr(job, name))},
    }


def origins(report: Report) -> list[tuple[dict[str, str], str]]:
    """Who computed what: each origin once, with its cases."""
    found: dict[str, tuple[dict[str, str], list[str]]] = {}
    for comparison in report.comparisons:
        for record in (comparison.nemo, comparison.ours):
            key = json.dumps(record.origin, sort_keys=True)
            found.setdefault(key, (record.origin, []))[1].append(comparison.name)
    everything = len(report.comparisons)
    return [(origin, "all" if len(names) == everything else ", ".join(names)) for origin, names in found.values()]
