"""Seconds that the stages of loading data take, summed per process: `with stage("decode"): ...`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

_seconds: dict[str, float] = {}
_running: list[str] = []  # the stage that is being timed


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Add the seconds inside the block to the stage; inside another stage they are that one's, and count once.

    So decoding a noise file is part of the stage "noise", and the sum over stages is no more than the time that passed.
    """
    if _running:
        yield
        return
    _running.append(name)
    start = time.perf_counter()
    try:
        yield
    finally:
        _running.clear()
        _seconds[name] = _seconds.get(name, 0.0) + time.perf_counter() - start


def take_seconds() -> dict[str, float]:
    """Seconds per stage since the last call, in this process."""
    taken = dict(_seconds)
    _seconds.clear()
    return taken
