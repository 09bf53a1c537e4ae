"""The project's one logger: on the console only rank zero speaks, each process has a file of its own for all it says.

from utils.logging import logger, info_once, warn_once
"""

import logging
import os
import sys
import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import torch.distributed as dist
from torch.utils.data import get_worker_info

RANK_VARIABLES = ("RANK", "SLURM_PROCID", "LOCAL_RANK")  # torchrun, Slurm, Lightning's own launcher
OF_LIGHTNING = ("lightning.pytorch", "lightning.fabric")  # loggers whose messages are kept in the file too
MANY_RECORDS = 1000


def rank(environment: Mapping[str, str] = os.environ) -> int:
    """Global rank of this process; known before the process group exists, from what the launcher exported."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return next((int(environment[name]) for name in RANK_VARIABLES if environment.get(name, "").isdigit()), 0)


def is_rank_zero() -> bool:
    return rank() == 0


def is_first_worker() -> bool:
    """True in the process that trains, too."""
    worker = get_worker_info()
    return worker is None or worker.id == 0


class FirstProcessOnly(logging.Filter):
    """Drop what every process would say alike: below ERROR only rank zero and its first loader worker speak."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or (is_rank_zero() and is_first_worker())


class OncePerMessage(logging.Filter):
    """Drop a record marked `once` whose text was seen before in this process."""

    def __init__(self):
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if not getattr(record, "once", False):
            return True
        message = record.getMessage()
        is_new = message not in self.seen
        self.seen.add(message)
        return is_new


class LogText(logging.FileHandler):
    """A log that can't be written, as on a full disk, is no reason to stop a run; it is said once."""

    has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.has_failed:
            print(f"WARNING: {self.baseFilename} isn't complete: {sys.exc_info()[1]}", file=sys.stderr)
        self.has_failed = True


class OwnFile(logging.Filter):
    """Hands what this process says to its log file, also what the console doesn't show; drops nothing.

    While no file is open the last MANY_RECORDS wait for one. Python's warnings and what Lightning says go there too.
    """

    def __init__(self):
        super().__init__()
        self._file: logging.FileHandler | None = None
        self._waiting: deque[logging.LogRecord] = deque(maxlen=MANY_RECORDS)
        self._show_warning = warnings.showwarning

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR or is_first_worker():
            self.take(record)
        return True

    def take(self, record: logging.LogRecord) -> None:
        if self._file is None:
            self._waiting.append(record)
        else:
            self._file.handle(record)

    def open(self, path: Path) -> None:
        """Go on in the file at `path`, which is made if need be; the file before is closed, if it is another."""
        path = path.absolute()
        if self._file is not None and self._file.baseFilename == str(path):
            return
        self.close()
        path.parent.mkdir(parents=True, exist_ok=True)  # where a rank of another machine has a disk of its own
        self._file = LogText(path, encoding="utf-8", errors="backslashreplace")
        self._file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
        while self._waiting:
            self._file.handle(self._waiting.popleft())
        for name in OF_LIGHTNING:
            logging.getLogger(name).addHandler(self._file)
        self._show_warning, warnings.showwarning = warnings.showwarning, self._take_warning

    def close(self) -> None:
        if self._file is None:
            return
        if warnings.showwarning == self._take_warning:
            warnings.showwarning = self._show_warning
        for name in OF_LIGHTNING:
            logging.getLogger(name).removeHandler(self._file)
        self._file.close()
        self._file = None

    def write(self, level: int, message: str, error: BaseException | None = None) -> None:
        """Into the file only: what the console gets in another way."""
        raised = None if error is None else (type(error), error, error.__traceback__)
        self.take(logging.LogRecord("nest_ssl", level, "", 0, message, None, raised))

    def _take_warning(self, message, category, filename, lineno, file=None, line=None) -> None:
        self._show_warning(message, category, filename, lineno, file, line)
        if file is None:
            self.write(logging.WARNING, f"{category.__name__}: {message} ({filename}:{lineno})")


class CurrentStderr(logging.StreamHandler):
    """Writes to what sys.stderr is at the time of the message, which a progress bar or a test may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


own_file = OwnFile()


def _build_logger() -> logging.Logger:
    built = logging.getLogger("nest_ssl")
    built.setLevel(logging.INFO)
    for part in (OncePerMessage(), own_file, FirstProcessOnly()):
        built.addFilter(part)
    if not built.handlers:
        handler = CurrentStderr()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        built.addHandler(handler)
    return built


logger = _build_logger()


def info_once(message: str) -> None:
    """Log at INFO unless this process has said exactly this before."""
    logger.info(message, extra={"once": True})


def warn_once(message: str) -> None:
    """Log at WARNING unless this process has said exactly this before."""
    logger.warning(message, extra={"once": True})
