"""The folder of a run: where it is, and how it is made ready for one more run."""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from utils.checkpoint_files.files import remove_unfinished, written_whole
from utils.experiment.exp_config import ExpManagerConfig
from utils.experiment.log_file import ALL_LOG_FILES
from utils.experiment.provenance import COMMAND_FILE, ENVIRONMENT_FILE, GIT_FILE
from utils.logging import is_rank_zero, own_file, warn_once

VERSION_VARIABLE = "NEMO_EXPM_VERSION"  # NeMo's: the processes that rank zero starts take its version
CONFIG_FILE = "config.yaml"
OF_ONE_RUN = (ALL_LOG_FILES, COMMAND_FILE, GIT_FILE, ENVIRONMENT_FILE, CONFIG_FILE, "hparams.yaml")


def run_folder(options: ExpManagerConfig) -> Path:
    """NeMo's rule for the folder. Only rank zero makes up a version; it hands it on through the environment."""
    if options.explicit_log_dir:
        if options.exp_dir or options.version:
            warn_once("exp_manager.explicit_log_dir is given: exp_dir and version are not used")
        return absolute(options.explicit_log_dir)
    folder = absolute(options.exp_dir or "nemo_experiments") / (options.name or "default")
    if options.version or options.resume_if_exists:
        return folder / (options.version or "")
    if is_rank_zero():
        os.environ[VERSION_VARIABLE] = time.strftime("%Y-%m-%d_%H-%M-%S")
        if not options.use_datetime_version:
            os.environ[VERSION_VARIABLE] = f"version_{next_number(folder, 'version_')}"
    return folder / os.environ.get(VERSION_VARIABLE, "")


def absolute(path: str) -> Path:
    """On the command line the shell leaves the ~ of `exp_manager.exp_dir=~/runs` as it is."""
    return Path(path).expanduser().absolute()


def next_number(folder: Path, prefix: str) -> int:
    """Of the folders in `folder` that are called `<prefix><number>`."""
    numbers = [path.name.removeprefix(prefix) for path in folder.glob(f"{prefix}*")]
    return max((int(number) for number in numbers if number.isdigit()), default=-1) + 1


def prepare(folder: Path, files_to_copy: Sequence[str] = ()) -> None:
    """Move the text files of an earlier run in `folder` into run_<n>; copy the files of `exp_manager.files_to_copy`.

    What a killed run was writing is removed. files_to_copy: those that `check_copies` lets pass.
    Raises OSError, in one line, where the disk is full.
    """
    copies = [path for path in map(absolute, files_to_copy) if path.parent != folder]
    own_file.close()  # it may be the one of an earlier run in this process
    remove_unfinished(folder)
    old = [path for pattern in OF_ONE_RUN for path in folder.glob(pattern)]
    old += [folder / path.name for path in copies if (folder / path.name).is_file()]
    if old:
        earlier = folder / f"run_{next_number(folder, 'run_')}"
        earlier.mkdir()
        for path in old:
            path.rename(earlier / path.name)
    for path in copies:
        with written_whole(folder / path.name) as unfinished:
            shutil.copy(path, unfinished)


def check_copies(files_to_copy: Sequence[str]) -> None:
    """Raise FileNotFoundError or ValueError, in one line, for files that can't be copied into a run's folder."""
    names = [Path(path).name for path in files_to_copy]
    for path, name in zip(files_to_copy, names, strict=True):
        if not absolute(path).is_file():
            raise FileNotFoundError(f"exp_manager.files_to_copy: {path} is not a file")
        if names.count(name) > 1 or any(Path(name).match(pattern) for pattern in OF_ONE_RUN):
            raise ValueError(f"exp_manager.files_to_copy: {path} would be overwritten in the run's folder; rename it")
