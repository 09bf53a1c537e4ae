"""Where the members of a tar file lie, so that any of them is read with one seek; kept in a small file beside the tar.

    audio_0.tar.index.json: {"format": 1, "tar_bytes": ..., ..., "names": [...], "starts": [...], "sizes": [...]}

The index belongs to one state of the tar: it is made anew when the tar has another size, or other headers where some of
them are looked at. When the tar was last changed doesn't count, as copying changes that.
"""

import errno
import json
import os
import stat
import tarfile
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from utils.logging import info_once

FORMAT = 1
BLOCK_BYTES = tarfile.BLOCKSIZE
HEADERS_CHECKED = 4
ANYONE_WRITES = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
COMPRESSIONS = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ\0": "unxz", b"(\xb5/\xfd": "unzstd"}


@dataclass(frozen=True)
class TarIndex:
    """Regular files in a tar, in its order.

    names: as the tar has them.
    starts, sizes: bytes; where the content of each begins, and its length, which may go beyond a tar that is cut off.
    tar_bytes: size of the tar.
    cut_off: the tar doesn't end as a tar does, so that members may be missing.
    """

    names: list[str]
    starts: list[int]
    sizes: list[int]
    tar_bytes: int
    cut_off: bool


def index_path(tar: str) -> str:
    return f"{tar}.index.json"


def tar_index(tar: str) -> TarIndex:
    """The index beside the tar, if it is that of this tar; else a new one, written there if that is possible.

    Raises ValueError for a compressed tar, OSError for one that can't be read.
    """
    with open(tar, "rb") as file:
        refuse_compressed(file.read(8), tar)
        index = read_index(tar, file)
        if index is None:
            index = walk(file)
            write_index(tar, file, index)
    return index


def refuse_compressed(start: bytes, tar: str) -> None:
    for magic, command in COMPRESSIONS.items():
        if start.startswith(magic):
            raise ValueError(
                f"{tar!r} is compressed, so that no sample of it can be read without all those before it; "
                f"unpack it once: {command} {tar} (audio is small as FLAC or Opus, too)"
            )


def walk(file: BinaryIO) -> TarIndex:
    """Read all headers of a tar; what isn't a tar has no members."""
    tar_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    names, starts, sizes, end = [], [], [], 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // BLOCK_BYTES) * BLOCK_BYTES
                if member.isreg() and not member.issparse():
                    names.append(member.name)
                    starts.append(member.offset_data)
                    sizes.append(member.size)
                tar.members = []  # else it keeps them all
    except (tarfile.TarError, ValueError):  # no tar, or it ends inside a member: then `end` isn't where a tar ends
        end = min(end, tar_bytes)
    file.seek(end)
    return TarIndex(names, starts, sizes, tar_bytes, cut_off=file.read(BLOCK_BYTES) != bytes(BLOCK_BYTES))


def headers_checksum(file: BinaryIO, starts: Sequence[int]) -> int:
    """CRC-32 of some members' headers, which hold name, size and date: first, last and between."""
    step = max(1, (len(starts) - 1) // (HEADERS_CHECKED - 1))
    checksum = 0
    for start in dict.fromkeys([*starts[::step][: HEADERS_CHECKED - 1], *starts[-1:]]):
        file.seek(start - BLOCK_BYTES)
        checksum = zlib.crc32(file.read(BLOCK_BYTES), checksum)
    return checksum


def read_index(tar: str, file: BinaryIO) -> TarIndex | None:
    """None where there is no index, or that of another tar."""
    try:
        with open(index_path(tar), encoding="utf-8") as text:
            stored = json.load(text)
        names, starts, sizes = stored["names"], stored["starts"], stored["sizes"]
        index = TarIndex(names, starts, sizes, stored["tar_bytes"], stored["cut_off"])
        is_right = (
            stored["format"] == FORMAT
            and index.tar_bytes == file.seek(0, os.SEEK_END)
            and len(names) == len(starts) == len(sizes)
            and min(starts, default=BLOCK_BYTES) >= BLOCK_BYTES
            and min(sizes, default=0) >= 0
            and stored["headers"] == headers_checksum(file, starts)
        )
    except (OSError, ValueError, TypeError, KeyError):  # not there, cut off, or not ours
        return None
    return index if is_right else None


def write_index(tar: str, file: BinaryIO, index: TarIndex) -> None:
    """At once or not at all, so that ranks may write it at the same time; nothing where the folder is read-only.

    A folder that nobody may write to stays as it is, although an administrator could.
    """
    stored = {
        "format": FORMAT,
        "tar_bytes": index.tar_bytes,
        "headers": headers_checksum(file, index.starts),
        "cut_off": index.cut_off,
        "names": index.names,
        "starts": index.starts,
        "sizes": index.sizes,
    }
    folder = os.path.dirname(os.path.abspath(tar))
    unfinished = f"{index_path(tar)}.{uuid.uuid4().hex}.tmp"
    if not os.stat(folder).st_mode & ANYONE_WRITES:
        say_unwritable(folder, os.strerror(errno.EACCES))
        return
    try:
        with open(unfinished, "w", encoding="utf-8") as text:
            json.dump(stored, text, separators=(",", ":"))
        os.replace(unfinished, index_path(tar))
    except OSError as error:
        say_unwritable(folder, error.strerror)
        if os.path.exists(unfinished):
            os.remove(unfinished)


def say_unwritable(folder: str, why: str) -> None:
    info_once(f"{folder}: can't be written to ({why}), so its tar files are indexed again at each start")
