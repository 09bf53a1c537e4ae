"""Two ranks of a process group, as processes of their own."""

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch
import torch.distributed as dist

SECONDS = 120.0  # that two ranks may take, the imports of their processes included


def two_ranks(function: Callable, *args: object) -> list:
    """What `function(rank, *args)` returns on rank 0 and on rank 1, joined by gloo.

    function: of a module, since the processes import it; a trainer in it takes devices=2 and strategy="ddp".
    Raises AssertionError, with the traceback, where one of them fails, and TimeoutError where they wait for ever.
    """
    context = multiprocessing.get_context("spawn")
    waiting, processes, results = {}, [], {}
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(2):
            ours, theirs = context.Pipe(duplex=False)
            # they meet over a file: a port that is free now may be another's when they listen
            process = context.Process(target=run, args=(rank, str(Path(folder, "store")), theirs, function, args))
            process.start()
            theirs.close()
            waiting[ours] = rank
            processes.append(process)
        try:
            end = time.monotonic() + SECONDS
            while waiting:
                ready = wait(waiting, timeout=max(0.0, end - time.monotonic()))
                if not ready:
                    raise TimeoutError(f"rank {' and '.join(map(str, waiting.values()))}: no end in {SECONDS:.0f} s")
                for pipe in ready:
                    rank = waiting.pop(pipe)
                    results[rank] = receive(pipe, rank)
            for process in processes:
                process.join(timeout=30)
        finally:
            for process in processes:
                process.kill()
                process.join()
    return [results[rank] for rank in range(2)]


def receive(pipe: Connection, rank: int) -> object:
    try:
        problem, result = pickle.loads(pipe.recv_bytes())
    except EOFError:
        raise AssertionError(f"the process of rank {rank} ended without a word") from None
    if problem:
        raise AssertionError(f"rank {rank}: {problem}")
    return result


def run(rank: int, store: str, pipe: Connection, function: Callable, args: tuple) -> None:
    """A process's part. LOCAL_RANK and its like tell Lightning that the processes are there already."""
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    torch.set_num_threads(1)
    try:
        limit = timedelta(seconds=SECONDS)
        dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2, timeout=limit)
        answer = "", function(rank, *args)
    except BaseException:  # of any kind: it is told, and fails the test
        answer = traceback.format_exc(), None
    pipe.send_bytes(pickle.dumps(answer))  # not `send`, which would share tensors with a process that is gone
    if dist.is_initialized():
        dist.destroy_process_group()
