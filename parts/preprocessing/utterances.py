"""A table of utterances: what manifests list, held as columns so that a million lines stay small and are shared.

Columns are numpy arrays and one `bytes`, so forked loader workers read the parent's memory without copying it, as they
would copy a list of a million objects (each look at an object writes its reference count).
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import PureWindowsPath
from typing import BinaryIO, ClassVar, NamedTuple, TypeVar

import numpy as np

from parts.batch_types import BadSample

Table = TypeVar("Table", bound="UtteranceTable")


class Utterance(NamedTuple):
    """A piece of an audio file.

    audio_filepath: where the file is.
    duration: seconds, as stated; None: to the end of the file.
    offset: seconds from the start of the file.
    manifest, line: where it is listed, lines from 1; "" and 0 where that isn't known.
    """

    audio_filepath: str
    duration: float | None
    offset: float
    manifest: str = ""
    line: int = 0


class UtteranceTable(Sequence[Utterance]):
    """Utterances as columns of equal length U; `table[i]` is an `Utterance`, `table[a:b]` a table.

    durations: (U,) float64 seconds; NaN where neither the manifest nor, once read, the file's header says.
    is_measured: (U,) bool; True where the duration comes from the header. Such an utterance is read to its end.
    offsets: (U,) float64 seconds.
    lines, manifest_numbers: (U,) int32; line in its manifest from 1, and which of `manifests` that is.
    rejected: lines that name no usable piece of audio; they have no row.

    File names stand in one UTF-8 `bytes` and are looked for on disk only when they are asked for. Relative ones start
    from the folder of their manifest or, as in NeMo, from the working directory (that of the time of reading).
    """

    columns: ClassVar[tuple[str, ...]] = (
        "durations",
        "is_measured",
        "offsets",
        "lines",
        "manifest_numbers",
        "name_starts",
        "name_ends",
    )

    def __init__(
        self,
        names: bytes,
        name_ends: Sequence[int],
        durations: Sequence[float],
        offsets: Sequence[float],
        lines: Sequence[int],
        manifest_numbers: Sequence[int],
        manifests: Sequence[str],
        rejected: Sequence[BadSample] = (),
    ):
        """names: all file names in a row, `name_ends` (U,) where each one ends, in bytes."""
        self.names = names
        self.name_ends = np.array(name_ends, dtype=np.int64)
        self.name_starts = np.concatenate([np.zeros(1, np.int64), self.name_ends])[:-1]
        self.durations = np.array(durations, dtype=np.float64)
        self.is_measured = np.zeros(len(self.durations), dtype=bool)
        self.offsets = np.array(offsets, dtype=np.float64)
        self.lines = np.array(lines, dtype=np.int32)
        self.manifest_numbers = np.array(manifest_numbers, dtype=np.int32)
        self.manifests = tuple(manifests)
        self.rejected = tuple(rejected)
        self.working_folder = os.getcwd()

    @classmethod
    def of(cls, utterances: Iterable[Utterance]) -> "UtteranceTable":
        """A table of utterances that come from elsewhere than a manifest."""
        utterances = list(utterances)
        names = [encode_name(utterance.audio_filepath) for utterance in utterances]
        numbers: dict[str, int] = {}
        return cls(
            names=b"".join(names),
            name_ends=np.cumsum([len(name) for name in names], dtype=np.int64),
            durations=[utterance.duration or np.nan for utterance in utterances],
            offsets=[utterance.offset for utterance in utterances],
            lines=[utterance.line for utterance in utterances],
            manifest_numbers=[numbers.setdefault(utterance.manifest, len(numbers)) for utterance in utterances],
            manifests=list(numbers),
        )

    def __len__(self) -> int:
        return len(self.durations)

    def __getitem__(self, index: int | slice) -> "Utterance | UtteranceTable":
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        duration = None if self.is_measured[index] or np.isnan(self.durations[index]) else float(self.durations[index])
        return Utterance(
            audio_filepath=self.path(index),
            duration=duration,
            offset=float(self.offsets[index]),
            manifest=self.manifests[self.manifest_numbers[index]],
            line=int(self.lines[index]),
        )

    def encoded_name(self, index: int) -> bytes:
        return self.names[self.name_starts[index] : self.name_ends[index]]

    def name(self, index: int) -> str:
        """The file name as the manifest has it."""
        return self.encoded_name(index).decode("utf-8", "surrogatepass")

    def path(self, index: int) -> str:
        """Where the file is, looked for on disk; where it should be, if it isn't."""
        manifest = self.manifests[self.manifest_numbers[index]]
        return find_audio(self.name(index), os.path.dirname(manifest), self.working_folder)

    def open(self, index: int) -> str | BinaryIO:
        """What to decode: here the path."""
        return self.path(index)

    def select(self, rows: np.ndarray) -> "UtteranceTable":
        """The table of these rows, in this order; file names aren't copied."""
        return self.like(**{column: getattr(self, column)[rows] for column in self.columns})

    def with_measured(self, rows: np.ndarray, seconds: np.ndarray) -> "UtteranceTable":
        """The table with durations that were read from headers; NaN where a header couldn't be read."""
        durations, is_measured = self.durations.copy(), self.is_measured.copy()
        durations[rows], is_measured[rows] = seconds, True
        return self.like(durations=durations, is_measured=is_measured)

    def like(self, kind: type[Table] | None = None, **changes: object) -> Table:
        """A table of `kind`, or of this one's, with all that this one has but for `changes`; nothing is copied."""
        table = object.__new__(kind or type(self))
        vars(table).update(vars(self), **changes)
        return table

    def __getstate__(self) -> dict:
        """Pickles (for spawned loader workers) carry the names of the rows that are there, not of all ever read."""
        state = self.__dict__.copy()
        lengths = self.name_ends - self.name_starts
        if lengths.sum() < len(self.names):
            state["names"] = b"".join(map(self.encoded_name, range(len(self))))
            state["name_ends"] = np.cumsum(lengths)
            state["name_starts"] = state["name_ends"] - lengths
        return state

    @property
    def nbytes(self) -> int:
        """Memory of names and columns."""
        return len(self.names) + sum(getattr(self, column).nbytes for column in self.columns)


def encode_name(name: str) -> bytes:
    """JSON may spell half a surrogate pair; such a name passes through to be reported as unreadable."""
    return name.encode("utf-8", "surrogatepass")


def find_audio(name: str, folder: str, working_folder: str) -> str:
    """Where the file of a manifest line is: in `folder`, that of the manifest, or else in the working directory.

    Backslashes of manifests written on Windows become slashes where the name as written isn't there. Where it should be
    is beside the manifest, but for a path from the root of a drive.
    """
    name = os.path.expanduser(name)
    beside = os.path.join(working_folder, folder, name)  # an absolute name stays itself
    candidates = [beside]
    if "\\" in name:
        candidates.append(os.path.join(working_folder, folder, name.replace("\\", "/")))
    candidates.append(os.path.join(working_folder, name))
    return next(filter(os.path.isfile, candidates), name if PureWindowsPath(name).is_absolute() else beside)
