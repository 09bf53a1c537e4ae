"""What a user can put right ends in one line; what only we can put right keeps its traceback."""

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException
from torch.multiprocessing.spawn import ProcessRaisedException

from utils.logging import rank

SHOW_TRACEBACK = "NEST_SSL_TRACEBACK"
PROJECT = Path(__file__).resolve().parents[1]
MISTAKES = (ValueError, OSError, ImportError)  # a user's, if raised where options and files are checked
MISTAKE_NAMES = {"ValueError", "FileNotFoundError", "PermissionError", "ImportError", "ModuleNotFoundError"}
LIBRARY_MISTAKES = (MisconfigurationException, OmegaConfBaseException)  # a user's wherever they are raised
LIGHTNING = Path(lightning.pytorch.__file__).parent


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print a user's error as `error: ...` and exit with 1; NEST_SSL_TRACEBACK=1 in the environment shows all of it."""
    try:
        yield
    except Exception as error:
        message = users_mistake(error)
        if message is None or os.environ.get(SHOW_TRACEBACK):
            raise
        who = f"error (rank {rank()})" if rank() else "error"
        print(f"{who}: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(1)


def users_mistake(error: Exception) -> str | None:
    """What to tell the user; None when the error isn't one that a user can put right.

    Decided by the innermost frame: a ValueError of ours or of Lightning's says what to change, one of torch's doesn't.
    """
    if isinstance(error, ProcessRaisedException):  # ddp_spawn: the child's traceback, as text
        return spawned_mistake(str(error))
    if isinstance(error, LIBRARY_MISTAKES):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    return str(error) if isinstance(error, MISTAKES) and frames and checks_options(frames[-1].filename) else None


def spawned_mistake(text: str) -> str | None:
    kind, _, message = text.strip().rpartition("\n")[2].partition(": ")
    files = re.findall(r'^  File "(.+)", line \d+', text, flags=re.MULTILINE)
    name = kind.rpartition(".")[2]
    if name in {mistake.__name__ for mistake in LIBRARY_MISTAKES}:
        return message
    return message if name in MISTAKE_NAMES and files and checks_options(files[-1]) else None


def checks_options(filename: str) -> bool:
    path = Path(filename).resolve()
    return path.is_relative_to(LIGHTNING) or (path.is_relative_to(PROJECT) and "site-packages" not in path.parts)
