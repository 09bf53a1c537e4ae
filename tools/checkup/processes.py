"""Rows of a table shared among processes that may die: a decoder that crashes costs its own row and no other."""

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import numpy as np

LARGEST_SHARE = 32  # rows handed over at once
LOOK_AGAIN_SECONDS = 1.0
GOODBYE_SECONDS = 5.0  # a process whose end of the pipe is closed may still be writing its exit code
HINTS = {"SIGKILL": " (killed, perhaps for memory)"}

Work = Callable[[Any, int], Any]  # (part of a table, number of a row in it) -> result


class Lost(NamedTuple):
    """A row that gave no result, and why."""

    detail: str


def share_out(
    table: Sequence, work: Work, *, num_workers: int, patience_seconds: float
) -> Iterator[tuple[int, Any | Lost]]:
    """Yield (row, work(table, row)) for every row of a table, in the order in which results come.

    table: a sequence with `select(rows) -> part of it`; parts are sent to the processes, so they must pickle.
    work: must pickle, too.
    num_workers: processes, always spawned, on any system; 0: this process does it, and dies with a row.
    patience_seconds: a row that takes longer is given up.
    Raises OSError when a process ends before it has begun.
    """
    if num_workers == 0:
        yield from ((row, work(table, row)) for row in range(len(table)))
        return
    size = max(1, min(LARGEST_SHARE, len(table) // (4 * num_workers)))
    waiting = deque(range(start, min(start + size, len(table))) for start in range(0, len(table), size))
    workers = [Worker(work) for _ in range(min(num_workers, len(waiting)))]
    try:
        while waiting or any(worker.rows for worker in workers):
            for worker in workers:
                if waiting and worker.is_idle and worker.give(table, waiting[0]):
                    waiting.popleft()
            speaking = wait([worker.connection for worker in workers], LOOK_AGAIN_SECONDS)
            for number, worker in enumerate(workers):
                if worker.connection in speaking:
                    yield from worker.answers()
                if worker.is_gone or worker.is_overdue(patience_seconds):
                    lost, rest = worker.give_up(patience_seconds)
                    waiting.extendleft([rest] if rest else [])
                    workers[number] = Worker(work)
                    yield from lost
    finally:
        for worker in workers:
            worker.end()


class Worker:
    """A process and the rows it was given; the first of `rows` is the one it is at."""

    def __init__(self, work: Work):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, work), daemon=True)
        self.process.start()
        theirs.close()  # the process has its own; with this one open its end would go unnoticed
        self.rows = range(0)
        self.is_ready = self.is_gone = False
        self.heard = time.monotonic()

    @property
    def is_idle(self) -> bool:
        return self.is_ready and not self.is_gone and not self.rows

    def give(self, table: Sequence, rows: range) -> bool:
        """Send it a part of the table; False when the process has ended while it had nothing to do."""
        try:
            self.connection.send(table.select(np.arange(rows.start, rows.stop)))
        except OSError:
            self.is_gone = True
        else:
            self.rows, self.heard = rows, time.monotonic()
        return not self.is_gone

    def answers(self) -> Iterator[tuple[int, Any]]:
        """Results that have come; finds out whether the process has ended."""
        try:
            while not self.is_gone and self.connection.poll():
                result = self.connection.recv()
                self.heard = time.monotonic()
                if self.is_ready:
                    row, self.rows = self.rows[0], self.rows[1:]
                    yield row, result
                self.is_ready = True
        except (EOFError, OSError):
            self.is_gone = True

    def is_overdue(self, patience_seconds: float) -> bool:
        return bool(self.rows) and time.monotonic() - self.heard > patience_seconds

    def give_up(self, patience_seconds: float) -> tuple[list[tuple[int, Lost]], range]:
        """End the process; returns the row it was at, if any, with the reason, and the rows it hasn't begun."""
        self.end()
        ended = how_it_ended(self.process.exitcode)
        if not self.is_ready:
            raise OSError(f"a process to read audio in ended before it began, with {ended}")
        overdue = f"nothing came of reading it for {patience_seconds:g} s"
        detail = f"the process that read it ended with {ended}" if self.is_gone else overdue
        return [(row, Lost(detail)) for row in self.rows[:1]], self.rows[1:]

    def end(self) -> None:
        self.connection.close()
        self.process.join(0 if not self.is_gone else GOODBYE_SECONDS)
        self.process.kill()
        self.process.join()


def how_it_ended(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    name = next((one.name for one in signal.Signals if one == -exit_code), str(-exit_code))
    return f"signal {name}{HINTS.get(name, '')}"


def serve(connection: Connection, work: Work) -> None:
    """The life of a process: take parts of the table and give a result per row, until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which ends this one
    silence_stderr()
    connection.send(None)  # ready
    try:
        while True:
            table = connection.recv()
            for row in range(len(table)):
                connection.send(work(table, row))
    except (EOFError, OSError):
        return


def silence_stderr() -> None:
    """Decoders in C (mpg123, for one) write there about every damaged file, over the progress bar."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
