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
INTERRUPTED = 130  # exit code of what Ctrl-C ended, as shells have it
PROJECT = Path(__file__).resolve().parents[1]
MISTAKES = (ValueError, OSError, ImportError)  # a user's, if raised where options and files are checked
MISTAKE_NAMES = {"ValueError", "FileNotFoundError", "PermissionError", "ImportError", "ModuleNotFoundError"}
LIBRARY_MISTAKES = (MisconfigurationException, OmegaConfBaseException)  # a user's wherever they are raised
LIBRARY_PREFIXES = ("omegaconf.errors.", f"{MisconfigurationException.__module__}.")
LIGHTNING = Path(lightning.pytorch.__file__).parent


@contextmanager
def one_line_errors(exit_code: int = 1, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Print a user's error as `error: ...` and exit; NEST_SSL_TRACEBACK=1 in the environment shows all of it.

    also: errors that are a user's wherever they are raised, as OSError is in a program that only writes files.
    Ctrl-C exits with 130 and no traceback; Lightning makes it 1.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        raise
    except Exception as error:
        message = str(error) if isinstance(error, also) else users_mistake(error)
        if message is None or os.environ.get(SHOW_TRACEBACK):
            raise
        who = f"error (rank {rank()})" if rank() else "error"
        print(f"{who}: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(exit_code)


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
    """The same for a traceback that is text: after the frames stands `kind: message`."""
    *_, last_frame = ["", *re.split(r'^  File "', text, flags=re.MULTILINE)]
    raised = re.search(r"^([\w.]+): (.*)", last_frame, flags=re.MULTILINE | re.DOTALL)
    if raised is None:
        return None
    kind, message = raised.groups()
    ours = kind in MISTAKE_NAMES and checks_options(last_frame.partition('"')[0])
    return message if ours or kind.startswith(LIBRARY_PREFIXES) else None


def checks_options(filename: str) -> bool:
    path = Path(filename).resolve()
    return path.is_relative_to(LIGHTNING) or (path.is_relative_to(PROJECT) and "site-packages" not in path.parts)
