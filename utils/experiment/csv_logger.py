"""The numbers of a run as a table, metrics.csv."""

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from utils.checkpoint_files.files import written_whole

TABLE_FILE = "metrics.csv"


class TableLogger(CSVLogger):
    """Lightning's CSVLogger, but in `folder` itself, and with a table that a resumed run goes on with.

    Lightning's deletes the one that it finds. Every line is written when it is logged: a kill loses none.
    """

    def __init__(self, folder: Path):
        super().__init__(save_dir=folder, name="", version="", flush_logs_every_n_steps=1)
        self._table = Table(folder / TABLE_FILE)

    @property
    @rank_zero_experiment
    def experiment(self) -> "Table":
        return self._table

    @property
    def lines(self) -> int:
        """How many the table has; 0 where this process doesn't write it."""
        return self._table.lines

    @rank_zero_only
    def go_on(self, lines: int | None, step: int) -> None:
        """From a checkpoint after `step` steps, when the table had so many lines; None: it doesn't say."""
        self._table.go_on(lines, step)

    @rank_zero_only
    def log_hyperparams(self, params: Mapping | Namespace | None = None) -> None:
        """They are in the run's folder, config.yaml."""

    @rank_zero_only
    def save(self) -> None:
        self._table.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._table.save()


class Table:
    """A csv file with a line for each set of numbers, and the step of the optimizer they belong to, from 0.

    A table that is there is replaced, unless the run goes on: then it is cut to what it was at the checkpoint, since a
    killed run may have logged steps past its last checkpoint.
    """

    def __init__(self, path: Path):
        self._path = path
        self._columns: list[str] | None = None  # None: nothing logged yet
        self._new: list[dict[str, float]] = []
        self.lines = 0

    def log_metrics(self, metrics: Mapping[str, Tensor | float], step: int) -> None:
        if self._columns is None:
            self._begin([])
        self.lines += 1
        self._new.append({"step": step, **{name: float(value) for name, value in metrics.items()}})

    def save(self) -> None:
        """Append what is new; with new columns the table is written anew."""
        if not self._new:
            return
        columns = list(dict.fromkeys([*self._columns, *(name for line in self._new for name in line)]))
        if columns != self._columns:
            self._write(columns, self._read())
        with open(self._path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, columns).writerows(self._new)
        self._new = []

    def go_on(self, lines: int | None, step: int) -> None:
        """See `TableLogger`. A validation within the steps of an accumulated gradient is logged at `step` itself."""
        end = step if lines is None else step + 1
        self._begin([line for line in self._read()[:lines] if line["step"].isdigit() and int(line["step"]) < end])

    def _begin(self, earlier: list[dict[str, str]]) -> None:
        self._columns, self.lines = [], len(earlier)
        if self._path.exists():
            self._write(list(earlier[0]) if earlier else ["step"], earlier)

    def _read(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        with open(self._path, newline="", encoding="utf-8") as file:
            return [line for line in csv.DictReader(file) if line.get("step")]

    def _write(self, columns: list[str], lines: list[dict[str, str]]) -> None:
        with written_whole(self._path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, columns, extrasaction="ignore")
            table.writeheader()
            table.writerows(lines)
        self._columns = columns
