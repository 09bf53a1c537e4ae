"""Lists that grow while a program runs: a JSON object per line."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.logging import warn_once


def append_line(path: Path, entry: dict) -> None:
    """Append an entry by one write; a line that a kill or a full disk cut is closed before it.

    The folder is made if need be. Where the file can't be written, that is said once.
    """
    text = json.dumps(entry, ensure_ascii=False)
    with going_on(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+", buffering=0) as file:
            start = b"\n" if ends_inside_a_line(file) else b""
            file.write(start + text.encode("utf-8", "backslashreplace") + b"\n")  # lone surrogates as JSON has them


def ends_inside_a_line(file) -> bool:
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def read_lines(path: Path) -> Iterator[dict]:
    """The whole entries, one after the other; a cut line is none."""
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


@contextmanager
def going_on(path: Path) -> Iterator[None]:
    """A list that can't be written, or read, is no reason to stop a run."""
    try:
        yield
    except OSError as error:
        warn_once(f"{path} isn't complete: {error.strerror}; the log has all that was left out")
