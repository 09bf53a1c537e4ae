"""The report as strict JSON: no NaN, no Infinity; those stand as the strings "nan", "inf" and "-inf".

{
  "format": 1, "script": "tools/compare_with_nemo.py", "made": date in UTC, "passed": true, "verdict": the last line,
  "source": where NeMo's numbers come from,
  "levels": [{"title", "what", "levels", "status", "counts": {status: n}, "worst": row or null, "reasons": [text]}],
  "cases": [{"name", "passed", "status", "class", "config", "own_options", "checkpoint", "manifest", "neutralised",
             "notes", "steps", "until", "origin": {"ours": {...}, "nemo": {...}}, "levels": as above, "rows": [row],
             "culprit": {"module", "class", "owner", "file", "phase", "reason", "error", "detail", "output"} or null,
             "cause": text or null}],
  "speed": [{"name", "unit", "more_is_better", "goal", "ours": [...], "nemo": [...], "note", "times_better": [...]}],
  "versions": [row]
}
row: {"level", "what", "status", "error", "limit", "share_of_limit", "reason", "detail", "module"}, with status
"passed", "failed", "known" (differs on purpose), "not run" or "broken off" (NeMo's process failed).
"""

import json
import math
from dataclasses import asdict
from typing import Any

from tools.parity.compare import Comparison
from tools.parity.diagnosis.culprit import Culprit
from tools.parity.report.summary import STATUSES, Report, Summary, case_status, share_of_limit, summarise
from tools.parity.report.words import class_and_file
from tools.parity.rows import Row


def to_json(report: Report) -> str:
    return json.dumps(finite(as_dict(report)), indent=1, allow_nan=False) + "\n"


def as_dict(report: Report) -> dict[str, Any]:
    return {
        "format": 1,
        "script": "tools/compare_with_nemo.py",
        "made": report.made,
        "passed": report.passed,
        "verdict": report.verdict,
        "source": report.source,
        "levels": [of_summary(summary) for summary in report.summaries],
        "cases": [of_comparison(comparison) for comparison in report.comparisons],
        "speed": [figure.to_json() for figure in report.speed],
        "versions": [of_row(row) for row in report.versions],
    }


def of_summary(summary: Summary) -> dict[str, Any]:
    return asdict(summary.line) | {
        "status": summary.status,
        "counts": {status: summary.count(status) for status in STATUSES},
        "worst": None if summary.worst is None else of_row(summary.worst),
        "reasons": summary.reasons,
    }


def of_row(row: Row) -> dict[str, Any]:
    return asdict(row) | {"share_of_limit": share_of_limit(row)}


def of_comparison(comparison: Comparison) -> dict[str, Any]:
    job = comparison.nemo.job
    return {
        "name": comparison.name,
        "passed": comparison.passed,
        "status": case_status(comparison),
        "class": job.case.class_path,
        "config": job.case.config,
        "own_options": job.own_options,
        "checkpoint": job.checkpoint,
        "manifest": job.manifest,
        "neutralised": job.neutralised,
        "notes": job.notes,
        "steps": job.steps,
        "until": job.until,
        "origin": {"ours": comparison.ours.origin, "nemo": comparison.nemo.origin},
        "levels": [of_summary(summary) for summary in summarise(comparison.rows)],
        "rows": [of_row(row) for row in comparison.rows],
        "culprit": None if comparison.culprit is None else of_culprit(comparison.culprit),
        "cause": comparison.cause or None,
    }


def of_culprit(culprit: Culprit) -> dict[str, Any]:
    return {
        "module": culprit.module,
        "class": culprit.class_name,
        "owner": culprit.owner,
        "file": class_and_file(culprit.owner or culprit.class_name)[1],
        "phase": culprit.phase,
        "reason": culprit.reason,
        "error": culprit.error,
        "detail": culprit.detail,
        "output": culprit.port,
    }


def finite(value: Any) -> Any:
    """The same with numbers that JSON has."""
    if isinstance(value, dict):
        return {str(key): finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
