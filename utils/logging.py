"""The project's one logger: silent on all ranks but the first, and able to say a thing once.

    from utils.logging import logger, info_once, warn_once
"""

import logging
import os
import sys
from collections.abc import Mapping

import torch.distributed as dist
from torch.utils.data import get_worker_info

RANK_VARIABLES = ("RANK", "SLURM_PROCID", "LOCAL_RANK")  # torchrun, Slurm, Lightning's own launcher


def rank(environment: Mapping[str, str] = os.environ) -> int:
    """Global rank of this process; known before the process group exists, from what the launcher exported."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return next((int(environment[name]) for name in RANK_VARIABLES if environment.get(name, "").isdigit()), 0)


def is_rank_zero() -> bool:
    return rank() == 0


class FirstProcessOnly(logging.Filter):
    """Drop what every process would say alike: below ERROR only rank zero and its first loader worker speak."""

    def filter(self, record: logging.LogRecord) -> bool:
        worker = get_worker_info()
        return record.levelno >= logging.ERROR or (is_rank_zero() and (worker is None or worker.id == 0))


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


class CurrentStderr(logging.StreamHandler):
    """Writes to what sys.stderr is at the time of the message, which a progress bar or a test may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _build_logger() -> logging.Logger:
    built = logging.getLogger("nest_ssl")
    built.setLevel(logging.INFO)
    built.addFilter(FirstProcessOnly())
    built.addFilter(OncePerMessage())
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
