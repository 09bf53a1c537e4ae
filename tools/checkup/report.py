"""What all lines of all manifests amount to: counts, durations, formats and findings, as one dict for JSON."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from parts.batch_types import BadSample
from parts.preprocessing.audio_file import REASONS
from tools.checkup.columns import Columns
from tools.checkup.findings import FINDINGS, Finding
from tools.checkup.line_check import ABOVE_MAX, BELOW_MIN, USED
from utils.training.rejects_list import entry_of

ADVICE = {
    "unreadable": "Look whether the files are there and open elsewhere; fetch or convert them again.",
    "empty": "These files hold no samples: their recording or conversion failed; make them again.",
    "non_finite": "NaN or infinite samples come from a processing step that divided by zero; make them again.",
    "out_of_scale": "Samples far above 1: integers saved as floats, most likely; divide by 32768.",
    "silent": "Nothing is audible. Stereo in opposite phase is silent when averaged: try --channel_selector 0.",
    "too_short": "Less than half of the stated duration is there: a cut file, or a duration in other units.",
    "bad_entry": "Correct these lines of the manifest; the detail says what is wrong.",
}
MOST_EXAMPLES = 100
HISTOGRAM_BINS = 10


def summarise(columns: Columns, options: dict) -> dict:
    """Everything there is to say, with numbers, strings, lists and dicts only; no NaN, which JSON doesn't have."""
    rows, table = columns.rows, columns.table
    used = rows["status"] == USED
    rejects = columns.rejects()
    return {
        "options": options,
        "lines": len(rows) + len(table.rejected),
        "used": int(used.sum()),
        "below_min_duration": int(np.count_nonzero(rows["status"] == BELOW_MIN)),
        "above_max_duration": int(np.count_nonzero(rows["status"] == ABOVE_MAX)),
        "rejected": len(rejects),
        "rejected_by_reason": {reason: sum(bad.reason == reason for bad in rejects) for reason in REASONS},
        "rejects": [entry_of(bad) for bad in rejects],
        "manifests": manifest_counts(columns, rejects),
        "hours": hours(rows[used]),
        "seconds": spread(rows["seconds"][used]),
        "histogram": histogram(rows["seconds"][used]),
        "sample_rates": count_values(rows["rate"][used]),
        "channels": count_values(rows["channels"][used]),
        "formats": count_values(np.array([*columns.formats, ""])[rows["format"][used]]),
        "clipped_share": mean(rows["clipped"][used]),
        "dc_offset_mean": mean(np.abs(rows["dc"][used])),
        "findings": {name: summarise_finding(finding, columns, used) for name, finding in FINDINGS.items()},
        "advice": {reason: ADVICE[reason] for reason in REASONS if any(bad.reason == reason for bad in rejects)},
    }


def manifest_counts(columns: Columns, rejects: Sequence[BadSample]) -> list[dict]:
    table, rows = columns.table, columns.rows
    is_used = rows["status"] == USED
    of_row = table.manifest_numbers

    def sums(weights: np.ndarray) -> list:
        return np.bincount(of_row, np.nan_to_num(weights), minlength=len(table.manifests)).tolist()

    listed, used = sums(np.ones(len(rows))), sums(is_used)
    stated, measured = sums(rows["stated"] * is_used / 3600), sums(rows["seconds"] * is_used / 3600)
    rejected = Counter(bad.manifest for bad in rejects)
    unlisted = Counter(bad.manifest for bad in table.rejected)
    return [
        {
            "path": path,
            "lines": int(listed[number]) + unlisted[path],
            "used": int(used[number]),
            "rejected": rejected[path],
            "hours": {"stated": stated[number], "measured": measured[number]},
        }
        for number, path in enumerate(table.manifests)
    ]


def hours(rows: np.ndarray) -> dict[str, float]:
    """stated: of the lines that state a duration."""
    return {name: float(np.nansum(rows[key]) / 3600) for name, key in (("stated", "stated"), ("measured", "seconds"))}


def mean(values: np.ndarray) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else 0.0


def spread(seconds: np.ndarray) -> dict[str, float]:
    names = ("shortest", "median", "mean", "longest")
    values = [f(seconds) for f in (np.min, np.median, np.mean, np.max)] if len(seconds) else [0.0] * len(names)
    return {name: float(value) for name, value in zip(names, values)}


def histogram(seconds: np.ndarray) -> list[dict]:
    """Bins of one round width over the middle 90 %, and one on either side for what is shorter or longer."""
    if not len(seconds):
        return []
    low, high = np.quantile(seconds, (0.05, 0.95))
    width = round_up((high - low) / HISTOGRAM_BINS or max(high, 0.01) / HISTOGRAM_BINS)
    edges = (width * np.arange(math.floor(low / width), math.floor(high / width) + 2)).round(9)
    if seconds.min() < edges[0]:
        edges = np.insert(edges, 0, 0.0)
    if seconds.max() > edges[-1]:  # the last bin holds its upper edge
        edges = np.append(edges, seconds.max())
    counts = np.histogram(seconds, edges)[0]
    return [
        {"from": round(float(a), 6), "to": round(float(b), 6), "lines": int(count)}
        for a, b, count in zip(edges, edges[1:], counts)
    ]


def round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... and their tenths, hundredths and so on."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def count_values(values: Iterable) -> dict[str, int]:
    """The commonest first."""
    counts = Counter(np.asarray(values).tolist())
    return {str(value): count for value, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))}


def summarise_finding(finding: Finding, columns: Columns, used: np.ndarray) -> dict:
    sizes = finding.find(columns)
    rows = np.flatnonzero(used & ~np.isnan(sizes))
    if finding.has_size:
        rows = rows[np.argsort(-np.abs(sizes[rows]), kind="stable")]
    table = columns.table

    def size_of(row: int) -> float | None:
        return float(sizes[row]) if finding.has_size and math.isfinite(sizes[row]) else None

    return {
        "lines": len(rows),
        "says": finding.says,
        "advice": finding.advice,
        "examples": [
            {"manifest": x.manifest, "line": x.line, "path": x.audio_filepath, "size": size_of(row)}
            for row in rows[:MOST_EXAMPLES]
            for x in (table[row],)
        ],
    }
