"""What can be wrong with lines that are used all the same, and what to do about it: one table."""

import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data.noise import SILENCE_DB
from parts.preprocessing.manifest import manifest_lines
from parts.preprocessing.utterances import UtteranceTable
from tools.checkup.columns import Columns
from tools.checkup.line_check import USED

DC_OFFSET = 0.01  # of full scale; a tenth of what loud speech has
CLIPPED_SHARE = 1e-3  # of the samples: one in a thousand at full scale is heard
LOW_LEVEL_DB = -60.0  # 16-bit rounding is at -98


class Finding(NamedTuple):
    """Something about lines that doesn't keep them from being used.

    says: what it is, behind the number of lines. advice: what to do.
    find: (U,) float: NaN where a line has no such thing, else the size of it. has_size: False where that means nothing.
    """

    says: str
    advice: str
    find: Callable[[Columns], np.ndarray]
    has_size: bool = True


def wrong_duration(columns: Columns) -> np.ndarray:
    """Seconds that the stated duration is too long, or (negative) too short."""
    rows, table = columns.rows, columns.table
    error = rows["stated"] - rows["seconds"]
    stops_early = (table.offsets == 0) & (rows["whole"] - rows["stated"] > tolerance(rows["whole"]))
    candidates = np.flatnonzero(stops_early & (rows["status"] == USED))
    stops_early[candidates] = ~says_offset(table, candidates)  # offset 0 and a duration name the first piece of a file
    error = np.where(stops_early, rows["stated"] - rows["whole"], error)
    return np.where(np.abs(error) > tolerance(rows["whole"]), error, np.nan)


def tolerance(seconds: np.ndarray) -> np.ndarray:
    """How far a stated duration may be off: a tenth, from 10 ms (durations are rounded) to 100 ms."""
    return (0.1 * seconds).clip(0.01, 0.1)


def says_offset(table: UtteranceTable, rows: np.ndarray) -> np.ndarray:
    """(R,) bool: whether the line of each of these rows of the table has the key `offset`."""
    found = set()
    wanted = {(int(table.manifest_numbers[row]), int(table.lines[row])): row for row in rows}
    for number in {number for number, _ in wanted}:
        for line, raw in enumerate(manifest_lines(table.manifests[number]), start=1):
            if (number, line) in wanted and "offset" in json.loads(raw.decode("utf-8-sig")):
                found.add(wanted[number, line])
    return np.array([row in found for row in rows], dtype=bool)


def repeated(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """(U,) 1.0 where a value occurred before, among the rows `of` (U,) bool; else NaN."""
    rows = np.flatnonzero(of)
    first = np.unique(values[rows], return_index=True)[1]
    repeats = np.delete(rows, first)
    return where_true(np.isin(np.arange(len(values)), repeats))


def where_true(mask: np.ndarray, values: np.ndarray | float = 1.0) -> np.ndarray:
    return np.where(mask, values, np.nan)


def duplicate(columns: Columns) -> np.ndarray:
    return repeated(columns.rows["key"], columns.rows["status"] == USED)


def same_content(columns: Columns) -> np.ndarray:
    rows = columns.rows
    return repeated(rows["content"], (rows["status"] == USED) & np.isnan(duplicate(columns)))


FINDINGS: dict[str, Finding] = {
    "wrong_duration": Finding(
        "state a wrong duration (seconds too long; below 0: too short)",
        "Batches are planned by the stated duration, and audio beyond it isn't read; --fix corrects it.",
        wrong_duration,
    ),
    "no_duration": Finding(
        "state no duration",
        "Every start of a run opens these files to see how long they are; --fix fills it in.",
        lambda columns: where_true(np.isnan(columns.rows["stated"])),
        has_size=False,
    ),
    "duplicate": Finding(
        "repeat an earlier line (same file, offset and duration)",
        "They are seen more often than the rest; --fix drops them.",
        duplicate,
        has_size=False,
    ),
    "same_content": Finding(
        "hold the same samples as an earlier line, under another name or manifest",
        "Keep one of each; in a validation set they would be known from training.",
        same_content,
        has_size=False,
    ),
    "clipping": Finding(
        f"are clipped (share of samples at full scale, above {CLIPPED_SHARE:g})",
        "The model would learn the distortion as speech; record or convert at a lower level, if you can.",
        lambda columns: where_true(columns.rows["clipped"] > CLIPPED_SHARE, columns.rows["clipped"]),
    ),
    "dc_offset": Finding(
        f"have a DC offset (mean above {DC_OFFSET:g} of full scale)",
        "Features hardly see it, but levels for mixing noise do; remove the mean, e.g. `sox in out highpass 10`.",
        lambda columns: where_true(np.abs(columns.rows["dc"]) > DC_OFFSET, columns.rows["dc"]),
    ),
    "low_level": Finding(
        f"are very quiet (RMS in dB of full scale, below {LOW_LEVEL_DB:g})",
        "Little but rounding noise may be in them; listen to some, and consider normalize_db.",
        lambda columns: where_true(columns.rows["level_db"] < LOW_LEVEL_DB, columns.rows["level_db"]),
    ),
    "low_rate": Finding(
        "are below the sample rate of the run (--sample_rate), in Hz",
        "Resampled, they have no high frequencies, and a model can tell them by that; prefer the original recordings.",
        lambda columns: where_true(columns.rows["rate"] < columns.sample_rate, columns.rows["rate"]),
    ),
    "silent_noise": Finding(
        f"are silent noise (mean power below {SILENCE_DB:g} dB of full scale)",
        "A run adds faint white noise to them; drop them if that isn't wanted.",
        lambda columns: where_true(columns.rows["power_db"] < SILENCE_DB),
        has_size=False,
    ),
}
