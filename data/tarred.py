"""Utterances in tar files, in NeMo's layout: a table like that of a manifest, so that everything above it is the same.

NeMo 3.0.0 streams its shards, and shuffles whole shards only. Here each utterance is read by itself, with one seek: an
exact shuffle, the same number of batches on every rank, and a run that resumes without reading what it has seen.
"""

import io
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data.tar_index import TarIndex, tar_index
from parts.batch_types import BadSample
from parts.preprocessing.audio_file import BadAudio
from parts.preprocessing.manifest import keep_durations, manifest_lines, read_manifests, within
from parts.preprocessing.manifest_paths import SHARD_STRATEGIES, manifest_paths
from parts.preprocessing.utterances import UtteranceTable
from utils.logging import info_once, logger, warn_once
from utils.stopwatch import stage

INDEX_THREADS = 16  # looking at many tars is waiting, mostly
FIRST_BUFFER = 100  # shards that webdataset gathers before it gives one


class TarTable(UtteranceTable):
    """Utterances whose audio lies in tar files.

    tars: paths of the shards, in their order.
    shards: (U,) int64, which of `tars`.
    starts, sizes: (U,) int64 bytes, where the audio file begins in it and how long it is.
    nemo_ids, num_nemo_ids: (U,) int64; NeMo 3.0.0's sample ids, and its length of the data set, count all manifest
        lines within the duration bounds, those of shards that weren't given included.

    A tar is opened for each read, which costs some 10 us and leaves nothing for forked workers to share.
    """

    columns = (*UtteranceTable.columns, "shards", "starts", "sizes", "nemo_ids")
    tars: tuple[str, ...]
    shards: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    nemo_ids: np.ndarray
    num_nemo_ids: int

    def path(self, index: int) -> str:
        """`folder/audio_0.tar/name.wav`: for messages, as no such file exists."""
        return f"{self.tars[self.shards[index]]}/{self.name(index)}"

    def open(self, index: int) -> io.BytesIO:
        """The bytes of the audio file. Raises BadAudio where the tar can't be read any more."""
        try:
            with stage("decode"), open(self.tars[self.shards[index]], "rb", buffering=0) as tar:
                tar.seek(int(self.starts[index]))
                return io.BytesIO(tar.read(int(self.sizes[index])))
        except OSError as error:
            raise BadAudio("unreadable", f"the tar can't be read: {error.strerror}") from None


def tar_table(
    tarred_audio_filepaths: str | Sequence[str],
    manifest_filepath: str | Sequence[str],
    config_path: str,
    *,
    min_duration: float | None = None,
    max_duration: float | None = None,
) -> TarTable:
    """The utterances of some tar files, in the order of their manifest lines.

    tarred_audio_filepaths: what `manifest_paths` takes, for the tar files of all ranks.
    manifest_filepath: one manifest for all of them, or one for each (`sharded_manifests/manifest__OP_0..7_CL_.json`).
    config_path: section of these keys, for messages.
    min_duration, max_duration: seconds; utterances beyond are left out.

    A line belongs to the member with its file name, without folder and extension, as in NeMo. Several lines may name
    one member, with offsets of their own, or as `name-sub1`, `name-sub2`, which NeMo's script writes (and NeMo 3.0.0
    then never reads). Members without a line are left out, and so are lines of shards that weren't given (by their
    `shard_id`). Lines without a member of a shard that was given are in the table's `rejected`.
    Raises ValueError where no line has a member.
    """
    tars = manifest_paths(tarred_audio_filepaths, f"{config_path}.tarred_audio_filepaths", kind="tar file")
    lines = read_manifests(manifest_filepath, f"{config_path}.manifest_filepath")
    with ThreadPoolExecutor(INDEX_THREADS) as pool:
        indexes = list(pool.map(tar_index, tars))
    for tar, index in zip(tars, indexes, strict=True):
        if index.cut_off:
            logger.warning("%s: not a whole tar file; only its first %d members are read", tar, len(index.names))
    table = match_lines(lines, tars, indexes, config_path)
    is_within = within(lines.durations, min_duration, max_duration)
    ids = np.cumsum(is_within) - 1
    table = table.like(nemo_ids=ids[table.nemo_ids], num_nemo_ids=int(is_within.sum()))
    return keep_durations(table, min_duration, max_duration, config_path)


def match_lines(lines: UtteranceTable, tars: Sequence[str], indexes: Sequence[TarIndex], config_path: str) -> TarTable:
    """The lines that have a member; as if there were no bounds of durations."""
    members = Members(tars, indexes)
    places = np.array([members.find(lines, row) for row in range(len(lines))])
    is_there = places >= 0
    is_whole = is_there.copy()
    is_whole[is_there] = ~members.are_cut_off[places[is_there]]
    if not is_whole.any():
        raise ValueError(
            f"{config_path}.tarred_audio_filepaths: none of {len(lines)} manifest lines names a member of them "
            f"({tars[0]!r}, ...); give the tar files that belong to {config_path}.manifest_filepath"
        )
    is_elsewhere = members.of_other_shards(lines, places)
    absent = _reject(lines, ~is_there & ~is_elsewhere, "the tar files have no member of this name")
    cut_off = _reject(lines, is_there & ~is_whole, "the tar file ends inside this member")
    if is_elsewhere.any():
        num_elsewhere = np.count_nonzero(is_elsewhere)
        info_once(f"{config_path}: {num_elsewhere} of {len(lines)} lines are left out: their shards aren't given")
    if absent or cut_off:
        warn_once(f"{config_path}: {len(absent) + len(cut_off)} of {len(lines)} lines have no audio in the tar files")
    rows = np.flatnonzero(is_whole)
    places = places[rows]
    unlisted = len(members.names) - len(np.unique(places)) - len(cut_off)
    if unlisted > 0:
        info_once(f"{config_path}: {unlisted} of {len(members.names)} members of the tar files have no line")
    return lines.select(rows).like(
        TarTable,
        rejected=(*lines.rejected, *absent, *cut_off),
        tars=tuple(tars),
        shards=members.shards[places],
        starts=members.starts[places],
        sizes=members.sizes[places],
        nemo_ids=rows,
        num_nemo_ids=len(lines),
    )


def _reject(lines: UtteranceTable, is_bad: np.ndarray, detail: str) -> list[BadSample]:
    manifests = [lines.manifests[number] for number in lines.manifest_numbers[is_bad]]
    numbers = lines.lines[is_bad].tolist()
    names = map(lines.name, np.flatnonzero(is_bad))
    return [
        BadSample(name, "bad_entry", detail, *where) for name, *where in zip(names, manifests, numbers, strict=True)
    ]


class Members:
    """The members of all tar files, to be found by file name; a place is a number among all of them."""

    def __init__(self, tars: Sequence[str], indexes: Sequence[TarIndex]):
        counts = [len(index.names) for index in indexes]
        self.names = list(itertools.chain.from_iterable(index.names for index in indexes))
        self.shards = np.repeat(np.arange(len(indexes)), counts)
        self.starts = _column(index.starts for index in indexes)
        self.sizes = _column(index.sizes for index in indexes)
        self.are_cut_off = self.starts + self.sizes > np.repeat([index.tar_bytes for index in indexes], counts)
        self.shard_numbers = [_last_number(tar, position) for position, tar in enumerate(tars)]
        self.shard_ids: dict[str, list[int | str | None]] = {}
        self.first: dict[str, int] = {}
        self.others: dict[str, list[int]] = {}  # where names are not unique
        for place, name in enumerate(self.names):
            key = file_id(name)
            if self.first.setdefault(key, place) != place:
                self.others.setdefault(key, []).append(place)

    def find(self, lines: UtteranceTable, row: int) -> int:
        """The place of a manifest line's audio; -1 where it has none."""
        name = lines.name(row)
        key = file_id(name)
        if key not in self.first:
            key = re.sub(r"-sub\d+$", "", key)
        if key not in self.others:
            return self.first.get(key, -1)
        shard = self.shard_id(lines, row)
        return min(
            (self.first[key], *self.others[key]),
            key=lambda place: (
                self.shard_numbers[self.shards[place]] != shard,
                not self.names[place].endswith(name),
            ),
        )

    def shard_id(self, lines: UtteranceTable, row: int) -> int | str | None:
        """What a line says of its shard; None where it says nothing."""
        manifest = lines.manifests[lines.manifest_numbers[row]]
        if manifest not in self.shard_ids:
            self.shard_ids[manifest] = shard_ids(manifest)
        return self.shard_ids[manifest][lines.lines[row] - 1]

    def of_other_shards(self, lines: UtteranceTable, places: np.ndarray) -> np.ndarray:
        """(U,) bool: lines without a place (-1) whose shard isn't among the tars.

        A tar's shard is that of the lines found in it; where there are none, the number in its name.
        """
        is_elsewhere = places < 0
        if is_elsewhere.any():
            ids = [self.shard_id(lines, row) for row in range(len(lines))]
            given = {None, *itertools.compress(ids, ~is_elsewhere)}
            silent = {*range(len(self.shard_numbers))} - {*self.shards[places[~is_elsewhere]].tolist()}
            given.update(self.shard_numbers[tar] for tar in silent)
            is_elsewhere &= [shard not in given for shard in ids]
        return is_elsewhere


def _column(parts: Iterable[Sequence[int]]) -> np.ndarray:
    return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])


def file_id(name: str) -> str:
    """File name without folder and extension."""
    base = name.replace("\\", "/").rpartition("/")[2]
    return base.rpartition(".")[0] or base


def _last_number(path: str, otherwise: int) -> int:
    """7 for `audio_7.tar` and `manifest_7.json`."""
    number = re.search(r"(\d+)\D*$", os.path.basename(path))
    return int(number[1]) if number else otherwise


def shard_ids(manifest: str) -> list[int | str | None]:
    """The `shard_id` of each line, which a table doesn't keep: it matters only where names aren't unique."""
    return [_shard_id(line) for line in manifest_lines(manifest)]


def _shard_id(line: bytes) -> int | str | None:
    try:
        shard = json.loads(line)["shard_id"]
    except (ValueError, TypeError, KeyError):  # blank, broken, or without
        return None
    return shard if isinstance(shard, int | str) else None


def nemo_order(
    table: TarTable,
    shard_strategy: str = "scatter",
    world_size: int = 1,
    global_rank: int = 0,
    worker: int = 0,
    num_workers: int = 1,
    shuffle_n: int = 0,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """(M,) rows in the order in which NeMo 3.0.0 gives them to one worker of one rank.

    shard_strategy: "scatter" gives every rank as many whole shards, "replicate" all of them.
    shuffle_n: shards, not samples, that are gathered to draw the next one from; 0: as listed. Inside a shard the order
        is that of the tar, and for a member that of its lines.
    rng: what the shards are drawn with.
    """
    if shard_strategy not in SHARD_STRATEGIES:
        raise ValueError(f"shard_strategy={shard_strategy!r} is not one of {', '.join(SHARD_STRATEGIES)}")
    of_rank = SHARD_STRATEGIES[shard_strategy](len(table.tars), world_size, global_rank)
    mine = np.array(of_rank[worker::num_workers], dtype=np.int64)
    in_order = np.lexsort((table.starts, table.shards))  # stable: lines of one member stay in the manifest's order
    first, last = np.searchsorted(table.shards[in_order], [mine, mine + 1])
    rows = {shard: in_order[start:end] for shard, start, end in zip(mine, first, last, strict=True)}
    drawn = drawn_through_buffer(mine, shuffle_n, rng or np.random.default_rng())
    return np.concatenate([np.empty(0, np.int64), *(rows[shard] for shard in drawn)])


def drawn_through_buffer(shards: Iterable[int], size: int, rng: np.random.Generator) -> Iterator[int]:
    """webdataset's shuffle, as a distribution: two come in for one that goes out, until `size` are gathered.

    Source: NeMo 3.0.0 `asr/data/audio_to_text.py`, `wds.shuffle(shuffle_n)` over shards (webdataset 1.0.2), which draws
    with Python's generator.
    """
    incoming, gathered = iter(shards), []
    for shard in incoming:
        gathered += [shard, *itertools.islice(incoming, int(len(gathered) + 1 < size))]
        if len(gathered) >= min(FIRST_BUFFER, size):
            yield gathered.pop(rng.integers(len(gathered)))
    while gathered:
        yield gathered.pop(rng.integers(len(gathered)))
