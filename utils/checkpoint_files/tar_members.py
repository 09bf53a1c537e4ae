"""The members of a tar archive from a stranger, looked at and never extracted.

    [header of 512 bytes] [content, zeros to a multiple of 512] ... [zeros]

Every header is checked by its checksum and all filling must be zero, so that a changed byte is an error wherever the
format lets it be seen: not in a member's content, nor in the dates of `pax` headers.
"""

import gzip
import io
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

BLOCK = tarfile.BLOCKSIZE
RECORD = tarfile.RECORDSIZE  # tar files are filled up with zeros to a multiple of this
MAX_MEMBERS = 10_000
MAX_NOTE = 1 << 16  # bytes of a header that says more of the next member
MAX_GROWTH, FREE_GROWTH = 20, 1 << 26  # a .gz may become 20 times as long, or 64 MiB; weights shrink to half at best
CHUNK = 1 << 20
USTAR_LIMIT = 8**11  # bytes of a member; a larger one has its size in GNU tar's way
REFUSED = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
NOTES = (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)  # say more of the next member
NOTED = re.compile(r"path|size|[amc]time|[ug]id|[ug]name|comment|(SCHILY|LIBARCHIVE)\..+")
CHECKSUMS = ("{:06o}\0 ", "{:07o}\0", "{:06o} \0")  # ways to write it; Python and GNU tar have the first


class Member(NamedTuple):
    """A file in the archive. start, size: of its content, in bytes. comment: what its `pax` header remarks."""

    name: str
    start: int
    size: int
    comment: str


class Window(io.RawIOBase):
    """Part of an open file, as a file."""

    def __init__(self, file: BinaryIO, start: int, size: int):
        self.file, self.start, self.size, self.position = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer: memoryview) -> int:
        wanted = max(0, min(len(buffer), self.size - self.position))
        self.file.seek(self.start + self.position)
        got = self.file.readinto(memoryview(buffer)[:wanted])
        self.position += got
        return got


@contextmanager
def opened_tar(path: Path) -> Iterator[BinaryIO]:
    """The tar, open; of a .tar.gz an unpacked copy in a nameless file, which goes when it is closed.

    Raises ValueError for a .gz that is damaged or grows too much.
    """
    with open(path, "rb") as file:
        is_compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not is_compressed:
            yield file
            return
        with tempfile.TemporaryFile() as unpacked:
            unpack(file, unpacked, limit=max(FREE_GROWTH, MAX_GROWTH * path.stat().st_size))
            yield unpacked


def unpack(file: BinaryIO, unpacked: BinaryIO, limit: int) -> None:
    """Write what a .gz file holds. Raises ValueError for a damaged one, and for more than `limit` bytes."""
    try:
        with gzip.open(file) as content:
            while chunk := content.read(CHUNK):
                if unpacked.tell() + len(chunk) > limit:
                    raise ValueError(f"unpacks to more than {limit:,} bytes, which no weights do")
                unpacked.write(chunk)
            unpacked.seek(0)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"is cut off or damaged: {error}") from None


def members(file: BinaryIO) -> list[Member]:
    """All files in a tar, in its order; reads only the headers and what is between the members.

    Raises ValueError, saying what is wrong, for an archive that is cut off or damaged, and for members that are no
    plain files or folders, or whose names lead out of the folder where someone might unpack them.
    """
    total, position = file.seek(0, io.SEEK_END), 0
    found: list[Member] = []
    notes: dict[str, str] = {}
    for _ in range(MAX_MEMBERS):
        file.seek(position)
        block = file.read(BLOCK)
        if block == bytes(BLOCK):
            check_end(file, position, total)
            return found
        info = header(block, first=position == 0)
        start = position + BLOCK
        size = info.size if info.type in NOTES else int(notes.get("size", info.size))
        position = check_filling(file, start, size, total)
        if info.type in NOTES:
            notes |= read_note(file, info, start)
            continue
        member = Member(notes.get("path", info.name), start, size, notes.get("comment", ""))
        check_member(member, info.type)
        if info.type in FILES:
            found.append(member)
        notes = {}
    raise ValueError(f"has more than {MAX_MEMBERS:,} members")


def header(block: bytes, first: bool) -> tarfile.TarInfo:
    """A member's header, if its checksum is right."""
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError):
        raise ValueError("is neither a .tar nor a .tar.gz file" if first else "is cut off or damaged") from None
    if block[148:156] not in [form.format(info.chksum).encode() for form in CHECKSUMS] or info.size < 0:
        raise ValueError("is damaged")
    return info


def check_filling(file: BinaryIO, start: int, size: int, total: int) -> int:
    """Where the member after a content of `size` bytes begins; what fills it up must be there and zero."""
    end = start + size
    filling = -size % BLOCK
    file.seek(min(end, total))
    if size < 0 or end + filling > total or file.read(filling) != bytes(filling):
        raise ValueError("is cut off or damaged")
    return end + filling


def check_end(file: BinaryIO, position: int, total: int) -> None:
    """Two blocks of zeros, and more up to a multiple of RECORD."""
    rest = total - position
    file.seek(position)
    if rest not in (2 * BLOCK, 2 * BLOCK + -(position + 2 * BLOCK) % RECORD) or file.read(rest) != bytes(rest):
        raise ValueError("is cut off or damaged at its end, or something was added to it")


def read_note(file: BinaryIO, info: tarfile.TarInfo, start: int) -> dict[str, str]:
    """What a header that stands before another one says of that: a long name, or `pax` records 'length key=value'."""
    if info.size > MAX_NOTE:
        raise ValueError(f"has a header of {info.size:,} bytes")
    file.seek(start)
    text = file.read(info.size).decode("utf-8")
    if info.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": text.removesuffix("\0")}
    notes, rest = {}, text.encode()
    while rest:
        length = int(rest.partition(b" ")[0])
        record, rest = rest[:length], rest[length:]
        key, equals, value = record.decode().partition(" ")[2].partition("=")
        if not equals or not value.endswith("\n") or not NOTED.fullmatch(key) or len(record) < length:
            raise ValueError(f"is damaged, or has a header that isn't known, {key[:40]!r}")
        notes[key] = value.removesuffix("\n")
    return notes


def check_member(member: Member, kind: bytes) -> None:
    """Raise ValueError for a member that is no plain file or folder, or whose name leads out of the archive."""
    name, shown = member.name, f"{member.name[:200]!r}"
    if kind not in (*FILES, tarfile.DIRTYPE):
        raise ValueError(f"has {REFUSED.get(kind, 'a member of an unknown kind')}, {shown}")
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
        raise ValueError(f"has a member whose name leads out of the archive, {shown}")
    if not name.isprintable():
        raise ValueError(f"has a member with control characters in its name, {shown}")
    if kind == tarfile.DIRTYPE and member.size:
        raise ValueError(f"has a folder with content, {shown}")


def write_member(file: BinaryIO, name: str, content: bytes, comment: str = "") -> None:
    """Append a small file, or with a name that ends in "/" a folder. No dates, no users: the same again next time."""
    info = entry(name, len(content))
    info.pax_headers = {"comment": comment} if comment else {}
    file.write(info.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % BLOCK))


@contextmanager
def large_member(file: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """Append a file of a size that isn't known beforehand: its content is what is written to `file` meanwhile."""
    header_at = file.tell()
    file.write(bytes(BLOCK))
    yield file
    size = file.tell() - header_at - BLOCK
    file.write(bytes(-size % BLOCK))
    end = file.tell()
    file.seek(header_at)
    file.write(entry(name, size).tobuf(tarfile.USTAR_FORMAT if size < USTAR_LIMIT else tarfile.GNU_FORMAT))
    file.seek(end)


def write_end(file: BinaryIO) -> None:
    """Close the archive, as Python and GNU tar do."""
    file.write(bytes(2 * BLOCK))
    file.write(bytes(-file.tell() % RECORD))


def entry(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = (tarfile.DIRTYPE, 0o755) if name.endswith("/") else (tarfile.REGTYPE, 0o644)
    info.size = size
    return info
