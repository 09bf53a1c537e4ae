"""NeMo manifests: text files with one JSON object per line, each naming a piece of audio."""

import codecs
import io
import json
import math
import re
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from parts.batch_types import BadSample
from parts.preprocessing.audio_file import BadAudio, header_seconds
from parts.preprocessing.manifest_paths import manifest_paths
from parts.preprocessing.utterances import Utterance, UtteranceTable, encode_name
from utils.logging import logger

EXAMPLE_LINE = '{"audio_filepath": "wavs/a.wav", "duration": 3.2}'
LONGEST_SECONDS = 1e7  # 116 days; more is a count of samples, or nonsense
UTF_MARKS = {  # the mark of UTF-32-LE starts with that of UTF-16-LE, so it is tried first
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
HINTS = {  # what a line that is no JSON object looks like -> what to do
    r".*\0": "it holds NUL bytes, as after a crash while it was written; write it again",
    r"\[\s*($|\{)": "a JSON array; write one object per line, as `jq -c '.[]' MANIFEST` does",
    r"\{$": "an object over several lines; write each on one line, as `jq -c . MANIFEST` does",
    r"\{'": "Python's quotes; JSON has double ones, as json.dumps writes them",
    r"\{.*\},$": "remove the comma behind the object",
    r"\{[^}]*$": "cut off, as by a full disk; write it again",
}
HEADER_THREADS = 16  # opening a file is waiting, mostly
HEADERS_PER_THREAD = 32  # fewer files than this are read without threads

decode_json = json.JSONDecoder().raw_decode  # json.loads takes twice the time


class BadEntry(ValueError):
    """A manifest line that can't be used. name: its file name, where it has one."""

    def __init__(self, detail: str, name: str = ""):
        super().__init__(detail)
        self.name = name


def read_manifests(manifests: str | Sequence[str] | None, config_path: str, kind: str = "manifest") -> UtteranceTable:
    """All lines of the manifests that a config value names (see `manifest_paths`).

    Lines that can't be used are listed in the table's `rejected`, with reason `bad_entry`.
    config_path: the key that named them, such as model.train_ds.manifest_filepath; errors begin with it.
    kind: see `manifest_paths`.
    Raises FileNotFoundError for a manifest that isn't there, ValueError where no line can be used.
    """
    paths = manifest_paths(manifests, config_path, kind)
    table = read_table(paths)
    if not len(table):
        raise ValueError(f"{config_path}: {_name_some(paths)} {_why_nothing(table.rejected)}")
    if table.rejected:
        num_lines = len(table) + len(table.rejected)
        first = describe(table.rejected[0])
        logger.warning(
            "%s: %d of %d lines can't be used; the first: %s", config_path, len(table.rejected), num_lines, first
        )
    return table


def _name_some(paths: Sequence[str]) -> str:
    return repr(paths[0]) if len(paths) == 1 else f"{paths[0]!r} and {len(paths) - 1} more"


def _why_nothing(rejected: Sequence[BadSample]) -> str:
    if not rejected:
        return f"has no lines; expected some like {EXAMPLE_LINE}"
    return f"has no line that can be used; the first of {len(rejected)}: {describe(rejected[0])}"


def describe(bad: BadSample) -> str:
    """Where a line stands and what is wrong with it."""
    return f"{bad.manifest}:{bad.line}: {bad.detail}"


def read_table(paths: Sequence[str]) -> UtteranceTable:
    """All lines of these files; the table has no rows where none can be used."""
    names, name_ends, durations, offsets = bytearray(), array("q"), array("d"), array("d")
    lines, manifest_numbers = array("i"), array("i")
    rejected: list[BadSample] = []
    for manifest_number, path in enumerate(paths):
        for number, raw in enumerate(manifest_lines(path), start=1):
            try:
                entry = parse_line(raw)
            except BadEntry as error:
                rejected.append(BadSample(error.name, "bad_entry", str(error), path, number))
                continue
            if entry is None:
                continue
            name, duration, offset = entry
            names += encode_name(name)
            name_ends.append(len(names))
            durations.append(duration)
            offsets.append(offset)
            lines.append(number)
            manifest_numbers.append(manifest_number)
    return UtteranceTable(bytes(names), name_ends, durations, offsets, lines, manifest_numbers, paths, rejected)


def manifest_lines(path: str) -> Iterator[bytes]:
    """The lines of a text file, as UTF-8 where a byte order mark says that it is UTF-16 or UTF-32."""
    with open(path, "rb") as file:
        start = file.read(4)
        file.seek(0)
        encoding = next((name for mark, name in UTF_MARKS.items() if start.startswith(mark)), None)
        if encoding is None:
            yield from file
        else:
            for line in io.TextIOWrapper(file, encoding, errors="replace"):
                yield line.encode()


def parse_line(raw: bytes) -> tuple[str, float, float] | None:
    """One JSON object -> file name as written, duration and offset in seconds; None for a blank line.

    The duration is NaN where the line has none, null or 0: to the end of the file, as NeMo reads it. Of a key that
    stands twice the last one counts. Raises BadEntry.
    """
    try:
        line = raw.decode("utf-8").strip("\ufeff \t\r\n")
        if not line:
            return None
        entry, end = decode_json(line)
    except UnicodeDecodeError as error:
        raise BadEntry(f"not UTF-8 text ({error.reason}); save the manifest as UTF-8") from None
    except (ValueError, RecursionError):
        entry, end = None, 0
    if not isinstance(entry, dict) or end != len(line):
        raise BadEntry(f"{_shorten(line)} is not a JSON object on one line: {hint(line)}")
    name = entry["audio_filename"] if "audio_filename" in entry else entry.get("audio_filepath")  # NeMo's order
    if not isinstance(name, str) or not name or "\0" in name:
        raise BadEntry(f"audio_filepath={_shorten(name)} is not the path of a file; expected {EXAMPLE_LINE}")
    try:
        return name, parse_seconds(entry, "duration") or math.nan, parse_seconds(entry, "offset")
    except BadEntry as error:
        error.name = name
        raise


def hint(line: str) -> str:
    return next((text for look, text in HINTS.items() if re.match(look, line)), f"expected {EXAMPLE_LINE}")


def parse_seconds(entry: dict, key: str) -> float:
    """0.0 where the key is absent or null; a number in quotes counts. Raises BadEntry."""
    value = entry.get(key, 0.0)
    try:
        seconds = 0.0 if value is None else math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0.0 <= seconds <= LONGEST_SECONDS:
        raise BadEntry(f"{key}={_shorten(value)} is not a number of seconds; write 0 or more, or leave {key} out")
    return seconds


def _shorten(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def keep_durations(
    table: UtteranceTable, min_duration: float | None, max_duration: float | None, section: str
) -> UtteranceTable:
    """Drop utterances shorter than `min_duration` or longer than `max_duration` seconds; log what that leaves.

    A missing duration is read from the file's header (NeMo 3.0.0 keeps such lines whatever their length); where
    that can't be read either, the line stays and the decoder reports it.
    section: the config section of the bounds, such as model.train_ds.
    Raises ValueError when nothing is left, saying which bound to move.
    """
    table = measure_durations(table)
    short = table.durations[~within(table.durations, min_duration, None)]
    long = table.durations[~within(table.durations, None, max_duration)]
    counts = (
        f"{len(short)} shorter than min_duration={min_duration} ({_hours(short)}), "
        f"{len(long)} longer than max_duration={max_duration} ({_hours(long)})"
    )
    kept = table.select(np.flatnonzero(within(table.durations, min_duration, max_duration)))
    if not len(kept):
        raise ValueError(f"{section}: no utterance is left: {counts}; {_bounds_to_move(short, long)}")
    logger.info("%s: kept %d utterances (%s); dropped %s", section, len(kept), _hours(kept.durations), counts)
    unknown = np.count_nonzero(np.isnan(kept.durations))
    if unknown:
        logger.warning("%s: %d of them have neither a duration nor a readable header", section, unknown)
    return kept


def within(durations: np.ndarray, min_duration: float | None, max_duration: float | None) -> np.ndarray:
    """(U,) bool: neither shorter nor longer, in seconds; NaN is neither."""
    is_short = durations < (-math.inf if min_duration is None else min_duration)
    is_long = durations > (math.inf if max_duration is None else max_duration)
    return ~(is_short | is_long)


def measure_durations(table: UtteranceTable) -> UtteranceTable:
    """Fill in missing durations from the files' headers."""
    rows = np.flatnonzero(np.isnan(table.durations))
    num_threads = min(HEADER_THREADS, len(rows) // HEADERS_PER_THREAD)
    if not len(rows):
        return table
    if num_threads <= 1:
        return table.with_measured(rows, _header_durations(table, rows))
    logger.info("reading %d durations from file headers, as the manifest doesn't state them", len(rows))
    with ThreadPoolExecutor(num_threads) as pool:
        shares = pool.map(lambda share: _header_durations(table, share), np.array_split(rows, num_threads))
        return table.with_measured(rows, np.concatenate(list(shares)))


def _header_durations(table: UtteranceTable, rows: np.ndarray) -> np.ndarray:
    return np.array([_header_duration(table, row) for row in rows])


def _header_duration(table: UtteranceTable, row: int) -> float:
    """NaN where it can't be known: the decoder then says why."""
    try:
        seconds = _left_seconds(header_seconds(table.open(row)), table.offsets[row])
    except BadAudio:  # from opening: a tar that is gone
        seconds = None
    return math.nan if seconds is None else seconds


def _left_seconds(whole: float | None, offset: float) -> float | None:
    """None, too, for an offset beyond the end and for an empty file, which the decoder reports."""
    return whole - offset if whole is not None and whole > offset else None


def seconds_of(utterance: Utterance) -> float | None:
    """Length in seconds: as stated, else from the file's header; None when unknown."""
    if utterance.duration is not None:
        return utterance.duration
    return _left_seconds(header_seconds(utterance.audio_filepath), utterance.offset)


def _hours(seconds: np.ndarray) -> str:
    return f"{np.nansum(seconds) / 3600:.2f} h"


def _bounds_to_move(short: np.ndarray, long: np.ndarray) -> str:
    remedies = []
    if len(short):
        remedies.append(f"set min_duration to at most {short.max():g}")
    if len(long):
        remedies.append(f"set max_duration to at least {long.min():g}")
    return " or ".join(remedies) or "there were none"
