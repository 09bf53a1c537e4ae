"""Which utterance goes to which shard, and under which name."""

import itertools
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parts.batch_types import BadSample
from parts.preprocessing.manifest import manifest_lines
from parts.preprocessing.utterances import UtteranceTable


@dataclass(frozen=True)
class Member:
    """One audio file in a shard.

    offset, duration: seconds of the source to cut out; None: all of it, as it is.
    manifest, line: where the source is listed first.
    """

    name: str
    source: str
    offset: float | None
    duration: float | None
    manifest: str
    line: int


@dataclass(frozen=True)
class Shard:
    """A tar file to be: its members, and the lines of its manifest, each with the place of its member."""

    number: int
    members: list[Member]
    lines: list[dict]
    member_of: list[int]


def plan_shards(
    table: UtteranceTable,
    num_shards: int,
    *,
    shuffle_seed: int | None = None,
    shuffle: bool = False,
    keep_files_together: bool = False,
    sort_in_shards: bool = False,
    equal_shards: bool = False,
    slice_with_offset: bool = False,
    codec: str | None = None,
) -> list[Shard]:
    """Divide the utterances as NeMo's script does: shuffled by Python's generator, then in blocks.

    equal_shards: leave out what doesn't divide, as NeMo's script always does, because its ranks need as many
        utterances each; otherwise the first shards get one more.
    codec: extension that all members get.
    """
    paths = [table.path(row) for row in range(len(table))]
    rows = list(range(len(table)))
    if shuffle:
        rows = shuffled(rows, paths if keep_files_together else None, shuffle_seed)
    size = len(rows) // num_shards
    blocks = [rows[number * size : (number + 1) * size] for number in range(num_shards)]
    if not equal_shards:
        for block, row in zip(blocks, rows[num_shards * size :], strict=False):
            block.append(row)
    if sort_in_shards:
        blocks = [sorted(block, key=lambda row: table.durations[row]) for block in blocks]
    plan = Planner(table, paths, Entries(table), Names(), slice_with_offset, codec)
    return [plan(number, block) for number, block in enumerate(blocks)]


def shuffled(rows: list[int], groups: Sequence[str] | None, seed: int | None) -> list[int]:
    """groups: what must stay together, by row."""
    if groups is None:
        random.Random(seed).shuffle(rows)
        return rows
    together: dict[str, list[int]] = {}
    for row in rows:
        together.setdefault(groups[row], []).append(row)
    order = list(together)
    random.Random(seed).shuffle(order)
    return [row for group in order for row in together[group]]


@dataclass(frozen=True)
class Planner:
    """Makes shards out of rows of a table; see `plan_shards`. paths: of the audio, by row."""

    table: UtteranceTable
    paths: Sequence[str]
    entries: "Entries"
    names: "Names"
    slice_with_offset: bool
    codec: str | None

    def __call__(self, number: int, rows: Iterable[int]) -> Shard:
        members: dict[tuple, Member] = {}
        places: dict[tuple, int] = {}
        lines, member_of = [], []
        for row in rows:
            key = (self.paths[row], *self.piece(row))
            if key not in members:
                places[key] = len(members)
                members[key] = self.member(row)
            lines.append(self.line(row) | {"audio_filepath": members[key].name, "shard_id": number})
            member_of.append(places[key])
        return Shard(number, list(members.values()), lines, member_of)

    def piece(self, row: int) -> tuple[float | None, float | None]:
        """Offset and duration in seconds of what is cut out of the file; None, None: nothing is."""
        return (float(self.table.offsets[row]), _seconds(self.table, row)) if self.slice_with_offset else (None, None)

    def member(self, row: int) -> Member:
        table, piece = self.table, self.piece(row)
        name = self.names.new(table.name(row), piece, self.codec)
        manifest = table.manifests[table.manifest_numbers[row]]
        return Member(name, self.paths[row], *piece, manifest, int(table.lines[row]))

    def line(self, row: int) -> dict:
        """The line of the manifest, without what names its audio."""
        entry = self.entries.of(row)
        if self.slice_with_offset:
            entry["source_audio_offset"] = entry.pop("offset", 0.0)
        entry.pop("audio_filename", None)
        return entry


def _seconds(table: UtteranceTable, row: int) -> float | None:
    return None if np.isnan(table.durations[row]) else float(table.durations[row])


class Entries:
    """The manifest lines of a table with all their keys."""

    def __init__(self, table: UtteranceTable):
        self.table = table
        self.raw = {path: list(manifest_lines(path)) for path in table.manifests}

    def of(self, row: int) -> dict:
        manifest = self.table.manifests[self.table.manifest_numbers[row]]
        entry = json.loads(self.raw[manifest][self.table.lines[row] - 1].decode("utf-8").strip("\ufeff"))
        seconds = _seconds(self.table, row)
        return entry if seconds is None else entry | {"duration": seconds}


class Names:
    """Names for members: the path in the manifest in one word, as NeMo's script makes it.

    A dot is where webdataset, which NeMo reads with, ends a name, so only that of the extension stays. Two files never
    get one name, in no two shards either: NeMo would give each of them the lines of both.
    """

    def __init__(self):
        self.taken: set[str] = set()

    def new(self, path: str, piece: tuple, codec: str | None) -> str:
        stem, extension = _split(path)
        base = re.sub(r"[/\\.:]", "_", stem.lstrip("./\\")) or "audio"
        if piece != (None, None):
            base += "".join("_" + str(seconds).replace(".", "_") for seconds in piece if seconds is not None)
        candidates = itertools.chain([base], (f"{base}_{number}" for number in itertools.count(2)))
        name = next(candidate for candidate in candidates if candidate not in self.taken)
        self.taken.add(name)
        return f"{name}.{codec or extension}"


def _split(path: str) -> tuple[str, str]:
    """(without extension, extension in lower case); what has none is taken for a WAV by name, and read by content."""
    suffix = Path(path.replace("\\", "/")).suffix
    return path[: len(path) - len(suffix)] if suffix else path, suffix[1:].lower() or "wav"


def missing_files(table: UtteranceTable) -> list[BadSample]:
    """Rows whose files aren't there."""
    missing = [row for row in range(len(table)) if not Path(table.path(row)).is_file()]
    return [
        BadSample(entry.audio_filepath, "unreadable", "no such file", entry.manifest, entry.line)
        for entry in map(table.__getitem__, missing)
    ]
