"""Read and write what torch.save makes, so that no file runs code and no damaged one is taken for whole.

Before torch sees a file, every byte of the archive is accounted for (`zip_check`) and its pickle is read to inert
values (`pickle_reader`); what it may name beside tensors are stand-ins of ours (`safe_globals`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch

from utils.checkpoint_files.config_references import resolved
from utils.checkpoint_files.files import written_whole
from utils.checkpoint_files.pickle_reader import check_pickle
from utils.checkpoint_files.safe_globals import SAFE_GLOBALS, plain
from utils.checkpoint_files.zip_check import check_zip
from utils.logging import warn_once

CONFIGS = {"hyper_parameters", "datamodule_hyper_parameters"}  # Lightning's names


class BadCheckpoint(ValueError):
    """A file that isn't a whole checkpoint, or asks to run code: which, why, and what to do."""


def load_checkpoint(
    source: str | Path | BinaryIO,
    *,
    map_location: str | torch.device = "cpu",
    name: str | None = None,
    needs_configs: bool = True,
) -> dict:
    """Read a checkpoint after checking that it is whole; nothing in it is run.

    source: a file, or an open one that can seek. name: what messages call it, where `source` is no path.
    Configs in it come as plain dicts and lists, with references to their own keys resolved.
    needs_configs: False leaves those out, with a warning, that ask for more than they hold (`${oc.env:HOME}`).
    Raises BadCheckpoint, in one line, for a damaged file, one that names code, and for such a config otherwise; OSError
    for one that can't be read.
    """
    name = name or called(source)
    with opened(source) as file, bad_checkpoint(name):
        check_pickle(*check_zip(file))
        file.seek(0)
        with only_safe_globals():
            checkpoint = torch.load(file, map_location=map_location, weights_only=True)
        for section in CONFIGS & checkpoint.keys():
            try:
                checkpoint[section] = resolved_configs(plain(checkpoint[section], section), section)
            except ValueError as error:
                if needs_configs:
                    raise ValueError(f"{error}, or take the weights alone, with init_from_ptl_ckpt") from error
                warn_once(f"{name}: {error}; without its {section} now")
                del checkpoint[section]
        return plain(checkpoint)


def resolved_configs(arguments: object, path: str) -> object:
    """A model's constructor arguments, of which each is a config of its own."""
    if not isinstance(arguments, dict):
        return resolved(arguments, path)
    return {key: resolved(value, f"{path}.{key}") for key, value in arguments.items()}


def verify_checkpoint(source: str | Path | BinaryIO, *, name: str | None = None) -> None:
    """Raise BadCheckpoint unless the file is whole and holds nothing but tensors and plain data."""
    with opened(source) as file, bad_checkpoint(name or called(source)):
        check_pickle(*check_zip(file))


def save_checkpoint(content: dict, path: str | Path) -> None:
    """Write plain data and tensors, whole or not at all.

    Raises ValueError for content that `load_checkpoint` would refuse: better now than when the run is to go on.
    """
    with written_whole(path) as unfinished, open(unfinished, "wb+") as file:
        write_checkpoint(content, file)
        with bad_checkpoint(f"{path} can't be saved: what there is to save"):
            check_pickle(*check_zip(file, contents=False))


def write_checkpoint(content: dict, file: BinaryIO) -> None:
    """torch.save; the same content makes the same bytes, whatever the file is called. OSError for a full disk."""
    try:
        torch.save(content, file)
    except RuntimeError as error:  # torch's, about positions, in place of the file's own
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


@contextmanager
def opened(source: str | Path | BinaryIO) -> Iterator[BinaryIO]:
    """The file to read, open; one that the caller opened stays so."""
    if not isinstance(source, str | os.PathLike):
        yield source
        return
    with open(source, "rb") as file:
        yield file


def called(source: str | Path | BinaryIO) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else str(getattr(source, "name", "the checkpoint"))


@contextmanager
def bad_checkpoint(name: str) -> Iterator[None]:
    """Whatever goes wrong with a hostile file is BadCheckpoint, in one line."""
    try:
        yield
    except (OSError, BadCheckpoint):
        raise
    except Exception as error:
        reason = " ".join(str(error).partition("\n")[0].split())
        if not isinstance(error, ValueError) or isinstance(error, UnicodeError):
            reason = f"is damaged or hostile ({type(error).__name__}: {reason})"
        raise BadCheckpoint(f"{name} {reason}") from error


@contextmanager
def only_safe_globals() -> Iterator[None]:
    """torch's list of what `weights_only` may use holds nothing but SAFE_GLOBALS, whatever a program has added."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(SAFE_GLOBALS)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)
