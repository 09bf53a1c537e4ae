"""What is said of a sample that was left out, in the log and in the file that lists them all."""

from pathlib import Path
from typing import NamedTuple, Protocol

from torch.utils.data import get_worker_info

from utils.json_lines import append_line, going_on, read_lines
from utils.logging import logger, warn_once

FILE_NAME, FILE_NAME_OF_RANK, ALL_FILES = "rejects.jsonl", "rejects_rank{}.jsonl", "rejects*.jsonl"
KEYS = ("manifest", "line", "path", "reason", "detail")  # of a line in the file
MAX_TRIALS = 20  # files drawn for one sample until one can be used; as in NeMo's `sample_noise`


class MixedIn(NamedTuple):
    """What it is called, and the key of a data section that names it."""

    name: str
    key: str


MIXED_IN = {  # how reasons begin that concern no sample, but what is mixed into it
    "noise_": MixedIn("noise", "noise_manifest"),
    "rir_": MixedIn("impulse response", "rir_manifest"),
}


class Rejected(Protocol):
    """What a batch or a manifest says of a sample that it left out; see `BadSample` in parts/batch_types.py."""

    path: str
    reason: str
    detail: str
    manifest: str
    line: int


def log_reject(bad: Rejected) -> None:
    """Say what was left out, and why, once per process."""
    what = next((f"{kind.name} " for prefix, kind in MIXED_IN.items() if bad.reason.startswith(prefix)), "")
    logger.error(f"{what}left out: {describe(bad)}", extra={"once": True})
    if ends_the_search(bad):
        warn_once(f"there are samples for which no {what}was found: one file after the other couldn't be used")


def ends_the_search(bad: Rejected) -> bool:
    """Whether it is the last of so many files in a row that its sample goes without (`LastTrial`)."""
    return getattr(bad, "is_last_trial", False)


def describe(bad: Rejected) -> str:
    """'a.wav: unreadable (not audio), train.json:3'; without a path its place stands first."""
    place = f"{bad.manifest}:{bad.line}" if bad.line else bad.manifest
    where = f", {place}" if bad.path and place else ""
    return f"{bad.path or place}: {bad.reason} ({bad.detail}){where}"


def log_reject_in_main(bad: Rejected) -> None:
    """`log_reject`, but not in a loader's worker: what that hands back is said by the process that trains."""
    if get_worker_info() is None:
        log_reject(bad)


def entry_of(bad: Rejected) -> dict[str, str | int]:
    """What a file that lists bad samples has of one, in its order."""
    return {key: getattr(bad, key) for key in KEYS}


class RejectsList:
    """The file that lists what was left out, one JSON object with KEYS per line; each entry is logged and written once.

    What any rank listed in the folder before isn't listed again. See `utils.json_lines` for a run that is killed and
    for files that can't be written.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self._path: Path | None = None
        self._known: set[tuple] = set()

    def open(self, rank: int, folder: Path | None) -> None:
        """folder: that of rank zero, which ranks started by torchrun or Slurm can't know before."""
        self.folder = folder
        if self.folder is None:
            return
        self._path = self.folder / (FILE_NAME_OF_RANK.format(rank) if rank else FILE_NAME)
        with going_on(self._path):
            for path in self.folder.glob(ALL_FILES):
                self._known.update(name_of(entry) for entry in read_lines(path) if entry.keys() >= {*KEYS})

    def take(self, bad: Rejected) -> None:
        log_reject(bad)
        entry = entry_of(bad)
        if self._path is not None and name_of(entry) not in self._known:
            self._known.add(name_of(entry))
            append_line(self._path, entry)

    def __str__(self) -> str:
        """Where to look, for the end of a sentence."""
        return "" if self.folder is None else f"; see {self.folder / FILE_NAME}"


def name_of(entry: dict) -> tuple:
    """What makes an entry another one: a file may be listed in several lines, with other offsets."""
    return entry["manifest"], entry["line"], entry["path"]
