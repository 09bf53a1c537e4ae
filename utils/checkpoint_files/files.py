"""Files that are there whole or not at all."""

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

UNFINISHED = ".unfinished"  # the suffix of a file that is being written
UNFINISHED_NAME = re.compile(rf".+\.[0-9a-f]{{8}}{re.escape(UNFINISHED)}")
NAME_CHARACTERS = 100  # of the file's own name in that of the unfinished one: file systems allow 255 bytes
NO_ROOM = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO")}
# network and FUSE file systems refuse to sync a folder, or it is closed to readers: the file is whole all the same
NO_FOLDER_SYNC = {
    getattr(errno, name, None)
    for name in ("EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EBADF", "EACCES", "EPERM", "EISDIR")
}
REPLACE_SECONDS = 5.0 if os.name == "nt" else 0.0  # Windows: wait for who has the old file open, as a virus scanner may


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Give a path beside `path` to write to; the file takes its name when all of it is on the disk.

    A process that is killed leaves the file that was there before, and one that ends in UNFINISHED (see
    `remove_unfinished`). An exception leaves the one before only. The folder is made if need be; the file keeps the
    permissions of the one that it replaces; a link is replaced, not what it points to.
    Raises OSError, in one line that says how much room there is, where the disk is full or fails.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: it can't be replaced by a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name[:NAME_CHARACTERS]}.{uuid4().hex[:8]}{UNFINISHED}")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, unfinished)
        replace(unfinished, path)
    except OSError as error:
        if error.errno is None or error.errno not in NO_ROOM:
            raise
        raise no_room(path, error) from error
    finally:
        unfinished.unlink(missing_ok=True)
    sync_folder(path.parent)


def no_room(path: Path, error: OSError) -> OSError:
    """The same error, in words that help."""
    free = shutil.disk_usage(path.parent).free
    told = OSError(
        f"{path} can't be written: {error.strerror}; {free:,} bytes are free in its folder. What was there before is "
        "untouched: make room, or have it written elsewhere"
    )
    told.errno = error.errno
    return told


def replace(source: Path, target: Path) -> None:
    """Rename, at once; on Windows as soon as nobody reads `target`."""
    deadline = time.monotonic() + REPLACE_SECONDS
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)


def remove_unfinished(folder: str | os.PathLike) -> list[Path]:
    """Delete the files and folders that killed processes left in a folder and those below it. Returns the paths.

    For the start of a run, on one process, before anything is written there: a file that is being written looks alike.
    """
    left = sorted(path for path in Path(folder).rglob(f"*{UNFINISHED}") if UNFINISHED_NAME.fullmatch(path.name))
    for path in left:
        if path.is_dir() and not path.is_symlink():  # a conversion's, with all that it had written
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return left


def sync_folder(folder: Path) -> None:
    """Make a new name last through a power cut, where a folder can be synced; on Windows it can't, and needn't."""
    if os.name == "nt":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
