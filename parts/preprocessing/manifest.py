"""NeMo manifests: text files with one JSON object per line, each naming a piece of audio."""

import codecs
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from parts.preprocessing.segment import header_seconds
from utils.logging import logger

EXAMPLE_LINE = '{"audio_filepath": "wavs/a.wav", "duration": 3.2}'
MAKE_DUMMY_DATA = "python tools/prepare_dummy_ssl_data.py"
PATH_KEYS = ("audio_filename", "audio_filepath")  # NeMo's order, should a line have both


class Utterance(NamedTuple):
    """A piece of an audio file.

    audio_filepath: where the file is.
    duration: seconds; None or 0: to the end of the file, as NeMo reads it.
    offset: seconds from the start of the file.
    """

    audio_filepath: str
    duration: float | None
    offset: float


def read_manifests(manifests: str | Sequence[str] | None, config_path: str) -> list[Utterance]:
    """All lines of one manifest, of a list of them, or of comma-separated ones.

    config_path: the key that named them, such as model.train_ds.manifest_filepath; errors begin with it.
    Raises FileNotFoundError for a manifest that isn't there, ValueError for a line that can't be read.
    """
    return [utterance for path in manifest_paths(manifests, config_path) for utterance in read_manifest(path)]


def manifest_paths(manifests: str | Sequence[str] | None, config_path: str) -> list[str]:
    """The paths that a config value names, each checked to be a file."""
    if manifests in (None, "", "???"):
        raise ValueError(
            f"{config_path} is not set; give a manifest, or make dummy data with `{MAKE_DUMMY_DATA}` and use that"
        )
    paths = manifests.split(",") if isinstance(manifests, str) else list(manifests)
    if not all(isinstance(path, str | os.PathLike) for path in paths):
        raise ValueError(f"{config_path}={manifests!r} is not a path, a list of paths or comma-separated paths")
    paths = [os.path.expanduser(os.fspath(path).strip()) for path in paths]
    for path in paths:
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"{config_path}: there is no manifest {path!r} (looked from {os.getcwd()}); correct the path, "
                f"or make dummy data with `{MAKE_DUMMY_DATA}` and use that"
            )
    return paths


def read_manifest(path: str) -> Iterator[Utterance]:
    """Lines of one manifest; blank lines, a byte order mark and Windows line ends don't matter."""
    folder = os.path.dirname(os.path.abspath(path))
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            where = f"{path}:{number}"
            try:
                line = raw.removeprefix(codecs.BOM_UTF8).decode("utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: not UTF-8 text ({error.reason}); save the manifest as UTF-8") from None
            if line:
                yield parse_line(line, where, folder)


def parse_line(line: str, where: str, folder: str) -> Utterance:
    """One JSON object -> Utterance. where: file:line, for errors. folder: what relative paths start from."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: {_shorten(line)} is not a JSON object on one line; expected {EXAMPLE_LINE}")
    name = next((entry[key] for key in PATH_KEYS if key in entry), None)
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}: audio_filepath={_shorten(name)} is not the path of a file; expected {EXAMPLE_LINE}")
    return Utterance(
        audio_filepath=find_audio(name, folder),
        duration=parse_seconds(entry.get("duration"), "duration", where),
        offset=parse_seconds(entry.get("offset"), "offset", where) or 0.0,
    )


def parse_seconds(value: object, key: str, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(
            f"{where}: {key}={_shorten(value)} is not a number of seconds; write one of 0 or more without quotes, "
            f"or leave {key} out"
        )
    return float(value)


def _shorten(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def find_audio(name: str, folder: str) -> str:
    """Where the file of a manifest line is: beside the manifest or, as in NeMo, in the working directory.

    Backslashes of manifests written on Windows become slashes where the name as written isn't there.
    """
    name = os.path.expanduser(name)
    candidates = [os.path.join(folder, name)]  # an absolute name stays itself
    if "\\" in name:
        candidates.append(os.path.join(folder, name.replace("\\", "/")))
    candidates.append(os.path.abspath(name))
    return next(filter(os.path.isfile, candidates), candidates[0])


def keep_durations(
    utterances: Iterable[Utterance], min_duration: float | None, max_duration: float | None, section: str
) -> list[Utterance]:
    """Drop utterances shorter than `min_duration` or longer than `max_duration` seconds; log what that leaves.

    A missing duration is read from the file's header (NeMo 3.0.0 keeps such lines whatever their length); where
    that can't be read either, the line stays and the decoder reports it.
    section: the config section of the bounds, such as model.train_ds.
    Raises ValueError when nothing is left, saying which bound to move.
    """
    lowest = min_duration if min_duration is not None else 0.0
    highest = max_duration if max_duration is not None else math.inf
    kept: list[Utterance] = []
    kept_seconds: list[float] = []
    short: list[float] = []
    long: list[float] = []
    unknown = 0
    for utterance in utterances:
        seconds = seconds_of(utterance)
        if seconds is not None and seconds < lowest:
            short.append(seconds)
        elif seconds is not None and seconds > highest:
            long.append(seconds)
        else:
            kept.append(utterance)
            kept_seconds.append(seconds or 0.0)
            unknown += seconds is None
    counts = (
        f"{len(short)} shorter than min_duration={min_duration} ({_hours(short)}), "
        f"{len(long)} longer than max_duration={max_duration} ({_hours(long)})"
    )
    if not kept and not short and not long:
        raise ValueError(f"{section}.manifest_filepath: the manifest has no lines; expected some like {EXAMPLE_LINE}")
    if not kept:
        raise ValueError(f"{section}: no utterance is left: {counts}; {_bounds_to_move(short, long)}")
    logger.info("%s: kept %d utterances (%s); dropped %s", section, len(kept), _hours(kept_seconds), counts)
    if unknown:
        logger.warning("%s: %d of them have neither a duration nor a readable header", section, unknown)
    return kept


def seconds_of(utterance: Utterance) -> float | None:
    """Length in seconds: as stated, else from the file's header; None when unknown."""
    if utterance.duration is not None:
        return utterance.duration
    whole = header_seconds(utterance.audio_filepath)
    return None if whole is None else max(0.0, whole - utterance.offset)


def _hours(seconds: list[float]) -> str:
    return f"{sum(seconds) / 3600:.2f} h"


def _bounds_to_move(short: list[float], long: list[float]) -> str:
    remedies = []
    if short:
        remedies.append(f"set min_duration to at most {max(short):g}")
    if long:
        remedies.append(f"set max_duration to at least {min(long):g}")
    return " or ".join(remedies)
