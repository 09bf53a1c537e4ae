"""Clean copies of manifests, beside the old ones so that relative paths stay right."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from parts.preprocessing.manifest import manifest_lines
from tools.checkup.columns import Columns
from tools.checkup.findings import FINDINGS
from tools.checkup.line_check import REJECTED, USED

DROP = None
Change = float | None  # what a line's duration should be, or DROP


class Cleaned(NamedTuple):
    """What became of the lines of a manifest."""

    path: Path
    kept: int
    corrected: int
    rejected: int
    repeated: int


def clean_path(manifest: str) -> Path:
    """speech.json -> speech.clean.json"""
    path = Path(manifest)
    return path.with_name(f"{path.stem}.clean{path.suffix}")


def write_clean(columns: Columns) -> Iterator[Cleaned]:
    """Write each manifest again without rejected and repeated lines, with durations as measured.

    Lines that are right stay as they are, byte for byte (UTF-16 becomes UTF-8), those with another duration keep
    their other keys. A new manifest takes its place in one step, so that a program stopped midway leaves no half.
    """
    values, table = columns.rows, columns.table
    rejected: dict[str, dict[int, Change]] = {manifest: {} for manifest in table.manifests}
    for bad in columns.rejects():
        rejected[bad.manifest][bad.line] = DROP
    seconds = true_seconds(columns)
    is_repeated = ~np.isnan(FINDINGS["duplicate"].find(columns)) | repeats_once_corrected(columns, seconds)
    for number, manifest in enumerate(table.manifests):
        rows = table.manifest_numbers == number
        repeated = {int(line): DROP for line in table.lines[rows & is_repeated]}
        is_wrong = rows & ~is_repeated & ~np.isnan(seconds)
        corrected = {int(table.lines[row]): round(float(seconds[row]), 6) for row in np.flatnonzero(is_wrong)}
        copy_lines(manifest, corrected | repeated | rejected[manifest])
        yield Cleaned(
            path=clean_path(manifest),
            kept=int(np.count_nonzero(rows & ~is_repeated & (values["status"] != REJECTED))),
            corrected=len(corrected),
            rejected=len(rejected[manifest]),
            repeated=len(repeated),
        )


def true_seconds(columns: Columns) -> np.ndarray:
    """(U,) what used lines should state as their duration; NaN where they do."""
    values = columns.rows
    error = FINDINGS["wrong_duration"].find(columns)
    is_missing = ~np.isnan(FINDINGS["no_duration"].find(columns))
    seconds = np.where(is_missing, values["seconds"], values["stated"] - error)
    return np.where(values["status"] == USED, seconds, np.nan)


def repeats_once_corrected(columns: Columns, corrected: np.ndarray) -> np.ndarray:
    """(U,) bool: lines that name the same piece as an earlier one when each has its right duration.

    corrected: (U,) seconds, NaN for lines that are right.
    """
    rows, table = columns.rows, columns.table
    repeats = np.zeros(len(rows), dtype=bool)
    if np.isnan(corrected).all():
        return repeats
    durations = np.where(np.isnan(corrected), rows["stated"], corrected.round(6))
    seen: set[tuple] = set()
    for row in np.flatnonzero(rows["status"] == USED):
        path = os.path.normcase(os.path.normpath(table.path(row)))
        piece = (int(table.manifest_numbers[row]), path, float(table.offsets[row]), float(durations[row]))
        repeats[row] = piece in seen
        seen.add(piece)
    return repeats


def copy_lines(manifest: str, changes: dict[int, Change]) -> None:
    path = clean_path(manifest)
    unfinished = path.with_name(f"{path.name}.part")
    with open(unfinished, "wb") as file:
        for line, raw in enumerate(manifest_lines(manifest), start=1):
            if line not in changes:
                file.write(raw)
            elif changes[line] is not DROP:
                file.write(with_duration(raw, changes[line]))
    os.replace(unfinished, path)


def with_duration(raw: bytes, seconds: float) -> bytes:
    """The line with another duration; its other keys stay, and so does its end."""
    text = raw.decode("utf-8")
    body = text.strip("\ufeff \t\r\n")
    entry = json.loads(body) | {"duration": seconds}
    must_escape = body.isascii() or "\\ud" in body.lower()  # half a surrogate pair has no UTF-8
    return text.replace(body, json.dumps(entry, ensure_ascii=must_escape), 1).encode("utf-8")
