"""What the values of exp_manager's options must be, beyond their types."""

import re
from collections.abc import Callable
from operator import attrgetter
from pathlib import PureWindowsPath
from typing import Any, NamedTuple

from utils.config_check import as_yaml
from utils.experiment.exp_config import ExpManagerConfig

DURATION = re.compile(r"\d+:\d\d:\d\d:\d\d")  # Lightning's


class Limit(NamedTuple):
    """holds: of a value that isn't null. wanted: in words, after 'must be'."""

    holds: Callable[[Any], bool]
    wanted: str


def stays_below(path: str) -> bool:
    """Whether a path that is put after a folder's stays below it, on any system; a metric's {name} may be a part.

    Windows takes both kinds of slashes, and drives.
    """
    parts = PureWindowsPath(re.sub("[{}]", "", path))
    return not parts.anchor and ".." not in parts.parts


def is_part_of_a_name(text: str) -> bool:
    return stays_below(text) and not {*"/\\"} & {*text}


BELOW = Limit(stays_below, "a name, or a path without `..` that doesn't begin at the root")
PART_OF_A_NAME = Limit(is_part_of_a_name, "part of a file's name, without slashes; dirpath says which folder")
MODE = Limit(lambda mode: mode in ("min", "max"), "min or max")
COUNT = Limit(lambda count: count >= 0, "at least 0, which is never")
LIMITS: dict[str, Limit] = {
    "name": BELOW,
    "version": BELOW,
    "max_time_per_run": Limit(lambda text: DURATION.fullmatch(text.strip()) is not None, "DD:HH:MM:SS"),
    "checkpoint_callback_params.filename": BELOW,
    "checkpoint_callback_params.prefix": PART_OF_A_NAME,
    "checkpoint_callback_params.postfix": PART_OF_A_NAME,
    "checkpoint_callback_params.mode": MODE,
    "checkpoint_callback_params.save_top_k": Limit(lambda kept: kept >= -1, "at least -1, which keeps all"),
    "checkpoint_callback_params.every_n_epochs": COUNT,
    "checkpoint_callback_params.every_n_train_steps": COUNT,
    "early_stopping_callback_params.mode": MODE,
}


def check_values(options: ExpManagerConfig) -> None:
    """Raise ValueError, in one line with the key's path and value, for the first that is out of its limits."""
    for key, limit in LIMITS.items():
        value = attrgetter(key)(options)
        if value is not None and not limit.holds(value):
            raise ValueError(f"exp_manager.{key}={as_yaml(value)} must be {limit.wanted}")
