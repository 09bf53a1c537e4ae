"""Seconds that the stages of loading data take, summed per process: `with stage("decode"): ...`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

_seconds: dict[str, float] = {}


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Add the seconds inside the block to the stage. Stages inside a stage count in both."""
    start = time.perf_counter()
    try:
        yield
    finally:
        _seconds[name] = _seconds.get(name, 0.0) + time.perf_counter() - start


def take_seconds() -> dict[str, float]:
    """Seconds per stage since the last call, in this process."""
    taken = dict(_seconds)
    _seconds.clear()
    return taken
