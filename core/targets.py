"""The table of what a config may build: one from a stranger names no other code.

`core` knows no class by path; packages that own classes register them with `register_targets`.
"""

from collections.abc import Callable, Mapping

from utils.config_check import nearest

TARGETS: dict[str, Callable] = {}


def register_targets(table: Mapping[str, Callable]) -> None:
    """Allow configs to name these `_target_` paths. Registering the same path for another object is an error."""
    for target, builder in table.items():
        if TARGETS.setdefault(target, builder) is not builder:
            raise ValueError(f"_target_ {target!r} is registered already, for {TARGETS[target]!r}")


def find_target(target: str, path: str) -> Callable:
    """The registered builder of a `_target_`."""
    if target not in TARGETS:
        raise ValueError(f"{path}._target_={target!r} is not a class that configs may name{nearest(target, TARGETS)}")
    return TARGETS[target]
