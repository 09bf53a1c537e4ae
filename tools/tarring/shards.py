"""Write one shard: a tar file that is there whole or not at all, and that was read back."""

import io
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from data.tar_index import TarIndex, index_path, tar_index, walk, write_index
from parts.batch_types import BadSample
from parts.preprocessing.audio_file import BadAudio, decode, open_audio
from parts.preprocessing.segment import refuse_unusable
from tools.tarring.plan import Member, Shard

CONTAINERS = {"opus": ("OGG", "OPUS"), "ogg": ("OGG", "VORBIS"), "flac": ("FLAC", None), "wav": ("WAV", None)}
EXACT = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
FLOATS = ("FLOAT", "DOUBLE", "VORBIS", "OPUS", "MPEG_LAYER_III")  # go beyond 1
FINEST = {"PCM_32": "PCM_24", "FLOAT": "PCM_24", "DOUBLE": "PCM_24"}  # where a codec can't store these
BLOCK_FRAMES = 2**16


@dataclass(frozen=True)
class ShardReport:
    """lines: of the shard's manifest. written: False where the shard was there already. num_bytes: of the tar."""

    lines: list[dict]
    rejected: list[BadSample]
    written: bool
    num_bytes: int


def tar_path(folder: Path, number: int) -> Path:
    return folder / f"audio_{number}.tar"


def manifest_path(folder: Path, number: int) -> Path:
    return folder / "sharded_manifests" / f"manifest_{number}.json"


def write_shard(shard: Shard, folder: Path, codec: str | None, on_member: Callable[[], object]) -> ShardReport:
    """Write tar, index and manifest, in this order: a shard with a manifest is finished.

    codec: a key of CONTAINERS; None: files as they are.
    on_member: called after each member.
    Raises OSError where the tar doesn't read back as it was written.
    """
    final = tar_path(folder, shard.number)
    if is_finished(shard, folder):
        for _ in shard.members:
            on_member()
        return ShardReport(shard.lines, [], False, final.stat().st_size)
    manifest_path(folder, shard.number).unlink(missing_ok=True)
    unfinished = final.with_name(f"{final.name}.part")
    checksums: dict[str, int] = {}
    problems: dict[int, BadAudio] = {}
    with tarfile.open(unfinished, "w") as tar:
        for place, member in enumerate(shard.members):
            try:
                content = content_of(member, codec)
            except BadAudio as error:
                problems[place] = error
            else:
                add(tar, member.name, content)
                checksums[member.name] = zlib.crc32(content)
            on_member()
    index = verify(unfinished, checksums)
    index_file = Path(index_path(str(final)))
    index_file.unlink(missing_ok=True)  # before the tar changes, as it belongs to the old one
    os.replace(unfinished, final)
    with open(final, "rb") as file:
        write_index(str(final), file, index)
    lines = [line for line, place in zip(shard.lines, shard.member_of, strict=True) if place not in problems]
    write_json_lines(manifest_path(folder, shard.number), lines)
    rejected = [rejection(shard.members[place], error) for place, error in problems.items()]
    return ShardReport(lines, rejected, True, final.stat().st_size)


def rejection(member: Member, error: BadAudio) -> BadSample:
    return BadSample(member.source, error.reason, str(error), member.manifest, member.line)


def is_finished(shard: Shard, folder: Path) -> bool:
    """Whether tar and manifest are there and are those of this shard."""
    tar, manifest = tar_path(folder, shard.number), manifest_path(folder, shard.number)
    if not (tar.is_file() and manifest.is_file()):
        return False
    if manifest.read_text(encoding="utf-8") != text_of(shard.lines):
        return False
    index = tar_index(str(tar))
    return (
        not index.cut_off
        and index.names == [member.name for member in shard.members]
        and all(map(_has_size_of_source, shard.members, index.sizes))
    )


def _has_size_of_source(member: Member, size: int) -> bool:
    """A file that is cut or converted has another size; whether the source changed isn't seen then."""
    is_copied = member.offset is None and Path(member.source).suffix.lower() == Path(member.name).suffix
    return not is_copied or os.path.getsize(member.source) == size


def content_of(member: Member, codec: str | None) -> bytes:
    """The bytes of a member. Raises BadAudio."""
    if member.offset is not None or (codec is not None and not member.source.lower().endswith(f".{codec}")):
        return converted(member, codec)
    try:
        return Path(member.source).read_bytes()
    except OSError as error:
        raise BadAudio("unreadable", str(error.strerror)) from None


def converted(member: Member, codec: str | None) -> bytes:
    """Cut out a piece and encode it, losing nothing where neither source nor codec do. Raises BadAudio."""
    samples, rate = decode(member.source, member.offset or 0.0, member.duration)
    refuse_unusable(samples, allow_silent=True)  # NaN would become a number, and never be found again
    with open_audio(member.source) as source:
        container, stored = source.format, source.subtype
    subtype = stored
    if codec:
        container, subtype = CONTAINERS[codec]
    if subtype is None:
        is_kept = stored in EXACT and soundfile.check_format(container, stored)
        subtype = stored if is_kept else FINEST.get(stored, "PCM_16")
    peak = float(np.abs(samples).max())
    if peak > 1 and subtype not in FLOATS:
        raise BadAudio("out_of_scale", f"peak {peak:.3g} would be cut at 1; convert to wav, or not at all")
    content = encode(samples, rate, container, subtype)
    check_encoded(content, samples, exact=subtype == stored and stored in EXACT)
    return content


def encode(samples: np.ndarray, rate: int, container: str, subtype: str) -> bytes:
    """(N, channels) -> bytes of an audio file. Raises BadAudio."""
    encoded = io.BytesIO()
    try:
        with soundfile.SoundFile(encoded, "w", rate, samples.shape[1], subtype, format=container) as file:
            for start in range(0, len(samples), BLOCK_FRAMES):  # all at once overflows the stack of Vorbis' encoder
                file.write(samples[start : start + BLOCK_FRAMES])
    except soundfile.SoundFileError as error:
        raise BadAudio(
            "unreadable", f"can't be written as {subtype} at {rate} Hz: {getattr(error, 'error_string', error)}"
        ) from None
    return encoded.getvalue()


def check_encoded(content: bytes, samples: np.ndarray, *, exact: bool) -> None:
    """Raise BadAudio unless the content decodes to these samples, or, where not exact, to as many."""
    decoded, _ = decode(io.BytesIO(content))
    is_right = np.array_equal(decoded, samples) if exact else decoded.shape == samples.shape
    if not is_right:
        detail = f"{len(samples)} samples were encoded and {len(decoded)}, or others, come back; try --force_codec flac"
        raise BadAudio("unreadable", detail)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """No owner, no date: the same input gives the same tar."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def verify(tar: Path, checksums: dict[str, int]) -> TarIndex:
    """Read every member back through a new index, and return that. Raises OSError."""
    with open(tar, "rb") as file:
        index = walk(file)
        found = {
            name: _checksum(file, start, size)
            for name, start, size in zip(index.names, index.starts, index.sizes, strict=True)
        }
    if index.cut_off or found != checksums:
        raise OSError(f"{tar} doesn't read back as it was written; check the disk, then run again")
    return index


def _checksum(file: io.BufferedReader, start: int, size: int) -> int:
    file.seek(start)
    return zlib.crc32(file.read(size))


def text_of(lines: Sequence[dict]) -> str:
    """JSON lines. What has no UTF-8, half a surrogate pair, is escaped."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_json_lines(path: Path, lines: Sequence[dict]) -> None:
    """At once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(text_of(lines), encoding="utf-8", newline="\n")
    os.replace(unfinished, path)
