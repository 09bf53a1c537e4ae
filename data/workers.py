"""Processes that load data: they leave it to the one that trains when a run stops, and go when it goes."""

import atexit
import os
import signal
import threading
import weakref
from types import FrameType

from torch.utils.data import dataloader

SECONDS_TO_OUTLAST = 30.0  # SIGTERM: for as long a step may take; SLURM kills after as many


def outlast_signals(worker_id: int) -> None:
    """For a loader's `worker_init_fn`: the training process needs its batches to end the step in which it is stopped.

    Ctrl-C, SLURM and the like signal all processes of a run. With SIGTERM torch also ends a worker that is stuck.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, leave_later)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def leave_later(number: int, frame: FrameType | None) -> None:
    leaving = threading.Timer(SECONDS_TO_OUTLAST, os._exit, (0,))
    leaving.daemon = True
    leaving.start()


def end_at_exit(batches: dataloader._BaseDataLoaderIter) -> None:
    """Tell the workers of a loader's iterator to go when Python exits: they would outlast the SIGTERM that comes."""
    if batches not in _known:
        _known.add(batches)
        if len(_known) == 1:
            atexit.register(end_workers)


def end_workers() -> None:
    for batches in list(_known):
        batches._shutdown_workers()


_known: weakref.WeakSet[dataloader._BaseDataLoaderIter] = weakref.WeakSet()
