"""What a user can put right ends in one line; what only we can put right keeps its traceback."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from utils.logging import rank

SHOW_TRACEBACK = "NEST_SSL_TRACEBACK"
PROJECT = Path(__file__).resolve().parents[1]
MISTAKES = (ValueError, OSError, ImportError)  # a user's, if raised where options and files are checked
LIBRARY_MISTAKES = (MisconfigurationException, OmegaConfBaseException)  # a user's wherever they are raised
LIGHTNING = Path(lightning.pytorch.__file__).parent


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print a user's error as `error: ...` and exit with 1; NEST_SSL_TRACEBACK=1 in the environment shows all of it."""
    try:
        yield
    except Exception as error:
        if os.environ.get(SHOW_TRACEBACK) or not is_users_error(error):
            raise
        who = f"error (rank {rank()})" if rank() else "error"
        print(f"{who}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def is_users_error(error: Exception) -> bool:
    """By the innermost frame: a ValueError of ours or of Lightning's says what to change, one of torch's doesn't."""
    if isinstance(error, LIBRARY_MISTAKES):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, MISTAKES) and bool(frames) and checks_options(Path(frames[-1].filename).resolve())


def checks_options(path: Path) -> bool:
    return path.is_relative_to(LIGHTNING) or (path.is_relative_to(PROJECT) and "site-packages" not in path.parts)
