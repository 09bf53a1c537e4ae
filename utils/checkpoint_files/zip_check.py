"""Every byte of the zip archive that torch.save writes, accounted for: a changed one is an error.

    [header name padding content CRC] of each record, [entry] of each record, end of the archive

Zip itself leaves room between and after these parts, has two copies of most numbers and fields that nobody reads; there
a damaged file would pass for a whole one. Formats: PKWARE APPNOTE 6.3.9; what torch makes of them: its writer,
caffe2/serialize/inline_container.cc, and its miniz, in which 2.1.0 and 3.0 (torch 2.13) write alike.
"""

import os
import struct
import zlib
from typing import BinaryIO, NamedTuple

CHUNK_BYTES = 1 << 22
ENTRIES_MAX_BYTES = 1 << 26  # half a million records
PICKLE_MAX_BYTES = 1 << 24  # of 10,000 parameters with Adam and averages: 5 MB
PICKLE = "data.pkl"
FULL = 0xFFFFFFFF  # of a number of 32 bits: the real one is in the zip64 field
DESCRIBED, UTF8 = 0x0008, 0x0800  # flags: CRC and sizes follow the content; the name is UTF-8

LOCAL = struct.Struct("<4s5H3L2H")
ENTRY = struct.Struct("<4s6H3L5H2L")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")
END = struct.Struct("<4s4H2LH")
LEGACY = {
    b"\x80\x02\x8a\nl\xfc\x9cF": "is a pickle of torch before 1.6",
    b"\x80": "is a bare pickle",
}


class Entry(NamedTuple):
    """A record as the archive's list of contents has it. zip64: the field of long numbers, empty if it has none."""

    name: str
    version: int
    flags: int
    moment: tuple[int, int]
    crc: int
    size: int
    start: int
    zip64: bytes


class TorchZip(NamedTuple):
    """pickle: content of the record data.pkl. sizes: bytes of each record, by name without the archive's own."""

    pickle: bytes
    sizes: dict[str, int]


def check_zip(file: BinaryIO, *, contents: bool = True) -> TorchZip:
    """Read a seekable file once, from its begin to its end.

    contents: False leaves the CRCs of the records but data.pkl unchecked, which saves reading them.
    Raises ValueError, saying what is wrong, for any file but a whole one of torch.save's.
    """
    total = file.seek(0, os.SEEK_END)
    refuse_other_formats(file, total)
    entries, entries_start = read_entries(file, total)
    root = entries[0].name.partition("/")[0] + "/"
    names = [entry.name.removeprefix(root) for entry in entries]
    if len(set(names)) < len(names) or not all(entry.name.startswith(root) for entry in entries):
        raise ValueError("has two records of one name, or one outside its folder")
    if PICKLE not in names or "constants.pkl" in names:
        raise ValueError("is a TorchScript program or another zip archive, not a checkpoint of torch.save")
    pickle, position = b"", 0
    for name, entry in zip(names, entries):
        wanted = contents or name == PICKLE
        content, position = check_record(file, entry, position, total, wanted=wanted, kept=name == PICKLE)
        pickle = content or pickle
    if position != entries_start:
        raise ValueError(f"has {entries_start - position} bytes that belong to no record")
    return TorchZip(pickle, {name: entry.size for name, entry in zip(names, entries)})


def refuse_other_formats(file: BinaryIO, total: int) -> None:
    """Raise ValueError, saying what it is, for a file that doesn't begin as those of torch.save."""
    file.seek(0)
    start = file.read(8)
    if total == 0:
        raise ValueError("is empty")
    for magic, kind in LEGACY.items():
        if start.startswith(magic):
            raise ValueError(f"{kind}, which can hold any code: read it where it's trusted, and torch.save it anew")
    if not start.startswith(b"PK\x03\x04"):
        raise ValueError("isn't a file of torch.save: it doesn't begin as one")


def read_entries(file: BinaryIO, total: int) -> tuple[list[Entry], int]:
    """The archive's list of contents, and where it starts."""
    tail_bytes = END64.size + LOCATOR.size + END.size
    file.seek(max(0, total - tail_bytes))
    tail = file.read(tail_bytes)
    if len(tail) < tail_bytes:
        raise ValueError("is cut off")
    *_, count, size, start = END64.unpack(tail[: END64.size])
    if tail != end_of_archive(count, size, start) or start + size + tail_bytes != total:
        raise ValueError("is cut off or damaged: it doesn't end as torch.save ends it")
    if size > ENTRIES_MAX_BYTES or count * ENTRY.size > size or count == 0:
        raise ValueError(f"has a damaged list of contents: {count} records in {size} bytes")
    file.seek(start)
    listing = file.read(size)
    entries, position = [], 0
    for _ in range(count):
        entry, position = read_entry(listing, position)
        entries.append(entry)
    if position != size:
        raise ValueError("has a damaged list of contents")
    return entries, start


def end_of_archive(count: int, size: int, start: int) -> bytes:
    """What torch.save writes after the list of contents: the long form, where to find it, and the short form."""
    end64 = END64.pack(b"PK\x06\x06", END64.size - 12, 0x031E, 45, 0, 0, count, count, size, start)
    locator = LOCATOR.pack(b"PK\x06\x07", 0, (start + size) % (1 << 64), 1)
    short = min(count, 0xFFFF)
    return end64 + locator + END.pack(b"PK\x05\x06", 0, 0, short, short, min(size, FULL), min(start, FULL), 0)


def read_entry(listing: bytes, position: int) -> tuple[Entry, int]:
    """One entry of the list of contents, and where the next one starts."""
    name_at = position + ENTRY.size
    if name_at > len(listing):
        raise ValueError("has a damaged list of contents")
    magic, made_by, version, flags, method, *fields = ENTRY.unpack(listing[position:name_at])
    time, date, crc, stored, size, name_bytes, extra_bytes, comment_bytes, disk, internal, external, start = fields
    if magic != b"PK\x01\x02" or any((made_by, comment_bytes, disk, internal, external)):
        raise ValueError("has a damaged list of contents")
    if method != 0 or stored != size or flags & ~(DESCRIBED | UTF8):
        raise ValueError("has a compressed or encrypted record, which torch.save doesn't write")
    extra_at = name_at + name_bytes
    end = extra_at + extra_bytes
    name = listing[name_at:extra_at].decode("utf-8")
    zip64 = listing[extra_at:end]
    size, start = long_numbers(zip64, size, start)
    return Entry(name, version, flags, (time, date), crc, size, start, zip64), end


def long_numbers(zip64: bytes, size: int, start: int) -> tuple[int, int]:
    """Size and start of a record; where they take more than 32 bits, from the field for such: size twice, start."""
    numbers = [size, size] * (size == FULL) + [start] * (start == FULL)
    expected = struct.pack("<2H", 1, 8 * len(numbers)) if numbers else b""
    if zip64[:4] != expected or len(zip64) != len(expected) + 8 * len(numbers):
        raise ValueError("has a damaged list of contents")
    values = list(struct.unpack(f"<{len(numbers)}Q", zip64[4:]))
    if size == FULL:
        size, stored, *values = values
        if size != stored:
            raise ValueError("has a damaged list of contents")
    return size, values[0] if values else start


def check_record(
    file: BinaryIO, entry: Entry, position: int, total: int, *, wanted: bool, kept: bool
) -> tuple[bytes, int]:
    """Check header, padding, content and what follows it of the record that must start at `position`.

    Returns its content, if `kept`, and where the next one must start.
    """
    broken = ValueError(f"is damaged at the record {entry.name!r}")
    name = entry.name.encode()
    file.seek(position)
    header = file.read(LOCAL.size)
    if entry.start != position or len(header) < LOCAL.size:
        raise broken
    extra_bytes = LOCAL.unpack(header)[-1]
    sums = (0, 0, 0) if entry.flags & DESCRIBED else (entry.crc, *[min(entry.size, FULL)] * 2)
    expected = LOCAL.pack(b"PK\x03\x04", entry.version, entry.flags, 0, *entry.moment, *sums, len(name), extra_bytes)
    padding = extra_bytes - len(entry.zip64)
    if header != expected or file.read(len(name)) != name or (padding and padding < 4):
        raise broken
    fill = struct.pack("<2sH", b"FB", padding - 4) + b"Z" * (padding - 4) if padding else b""
    extra = file.read(extra_bytes)
    if entry.size >= FULL and extra[12:20] == bytes(8):  # miniz doesn't know the second size yet
        extra = extra[:12] + extra[4:12] + extra[20:]
    if extra != entry.zip64 + fill:
        raise broken
    start = position + LOCAL.size + len(name) + extra_bytes
    if start + entry.size > total:
        raise broken
    if kept and entry.size > PICKLE_MAX_BYTES:
        raise ValueError(f"has {entry.size:,} bytes beside its tensors, more than {PICKLE_MAX_BYTES:,}")
    crc, content = read_content(file, entry.size, kept=kept) if wanted else (entry.crc, b"")
    if crc != entry.crc:
        raise broken
    end = start + entry.size
    file.seek(end)
    described = struct.pack("<4sL2Q" if entry.zip64 else "<4s3L", b"PK\x07\x08", entry.crc, entry.size, entry.size)
    described = described if entry.flags & DESCRIBED else b""
    if file.read(len(described)) != described:
        raise broken
    return content, end + len(described)


def read_content(file: BinaryIO, size: int, *, kept: bool) -> tuple[int, bytes]:
    """The CRC-32 of the next `size` bytes, and the bytes if `kept`."""
    if kept:
        content = file.read(size)
        return zlib.crc32(content), content
    crc, left = 0, size
    while left:
        chunk = file.read(min(left, CHUNK_BYTES))
        if not chunk:
            raise ValueError("is cut off")
        crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    return crc, b""
