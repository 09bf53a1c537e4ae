"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

UNFINISHED = ".unfinished"  # the suffix of a file that is being written


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Give a path beside `path` to write to; the file takes its name when all of it is on the disk.

    A process that is killed leaves the file that was there before, and one that ends in UNFINISHED. An exception
    leaves the one before only. The folder is made if need be.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{uuid4().hex[:8]}{UNFINISHED}")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a new name last through a power cut; Windows can't open folders, and needn't."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
