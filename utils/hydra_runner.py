"""Run a function with the config that Hydra composes from a yaml and the command line."""

import functools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from hydra import main as hydra_main
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from utils.config_check import nearest
from utils.errors import one_line_errors

QUIET = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
DIRECTORY_FLAGS = ("--config-path", "-cp", "--config-dir", "-cd")
VALUE_FLAGS = ("--config-name", "-cn", "--cfg", "-c", "--package", "-p")
ADDED_KEY = re.compile(r"^\+(?!\+)(?P<key>[\w.]+)=")  # +model.encoder.reduction=pooling


def hydra_runner(config_path: str = ".", config_name: str | None = None) -> Callable[[Callable], Callable]:
    """Decorate `task(cfg)`: called without arguments, it reads the command line as NeMo's runner of this name does.

    config_path: folder of the yamls, relative to the file that defines `task`.
    Beside Hydra's own rules: a relative `--config-path` is looked for from the working directory first; `+key=value`
    also works on a key that the yaml has already (NeMo's users add keys that stand in our yaml); no output folder, no
    log file, no change of directory; an error of the user's ends in one line (`utils.errors`).
    """

    def decorate(task: Callable[[DictConfig], object]) -> Callable:
        @functools.wraps(task)
        def run(cfg: DictConfig | None = None) -> object:
            if cfg is not None:
                return task(cfg)
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors to us instead of printing several lines
            folder = Path(task.__code__.co_filename).resolve().parent / config_path
            with one_line_errors():
                sys.argv[1:] = [*command_line(sys.argv[1:], folder), *QUIET]
            main = hydra_main(version_base="1.3", config_path=str(folder), config_name=config_name)
            with one_line_errors():
                try:
                    return main(guarded)()
                except HydraException as error:
                    raise ValueError(explain(error)) from error

        @functools.wraps(task)
        def guarded(cfg: DictConfig) -> object:
            with one_line_errors():  # inside Hydra, which would print a line of its own first
                return task(cfg)

        return run

    return decorate


def command_line(arguments: list[str], folder: Path) -> list[str]:
    """Arguments as Hydra needs them: flags first, folders absolute, `+key=` as `++key=` unless `key` is a group."""
    flags, overrides = [], []
    for previous, argument in zip(["", *arguments], arguments):
        name, equals, value = argument.partition("=")
        if previous in DIRECTORY_FLAGS:
            flags.append(existing_folder(argument, folder))
        elif name in DIRECTORY_FLAGS and equals:
            flags.append(f"{name}={existing_folder(value, folder)}")
        elif argument.startswith("-") or previous in VALUE_FLAGS:
            flags.append(argument)
        elif argument not in QUIET:  # a process that Lightning starts gets our arguments once more
            added = ADDED_KEY.match(argument)
            overrides.append(f"+{argument}" if added and not (folder / added["key"]).is_dir() else argument)
    return flags + overrides


def existing_folder(value: str, default: Path) -> str:
    """Absolute path of a config folder that was given relative to the working directory or to the program."""
    for base in (Path.cwd(), default.parent):
        if (base / value).is_dir():
            return str((base / value).resolve())
    raise ValueError(f"--config-path={value}: there is no such folder in {Path.cwd()}")


def explain(error: HydraException) -> str:
    """What went wrong in composing the config, in one line that names the key and its nearest match."""
    first_line = str(error).partition("\n")[0].rstrip(".")
    if isinstance(error, MissingConfigException) and error.options:
        return first_line + nearest(error.missing_cfg_file.rpartition("/")[2], error.options)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: {first_line}"
    key, parent = getattr(error.__cause__, "full_key", None), getattr(error.__cause__, "parent_node", None)
    if not key or not OmegaConf.is_dict(parent):
        return first_line
    known = [str(name) for name in parent]
    return f"{key} is not in the config{nearest(key.rpartition('.')[2], known)} (+{key}=... adds a key)"
