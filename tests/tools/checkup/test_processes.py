import importlib
import os
from pathlib import Path

import pytest

from tools.checkup.processes import Lost, share_out

# In a module of its own, as it is sent to other processes.
DEADLY = """
import os, signal, time

FATES = {"exits": lambda: os._exit(7), "hangs": lambda: time.sleep(600),
         "crashes": lambda: os.kill(os.getpid(), signal.SIGSEGV)}

class Table(list):
    def select(self, rows):
        return Table(self[row] for row in rows)

def work(table, row):
    FATES.get(table[row], int)()
    return table[row].upper()
"""


@pytest.fixture
def results(tmp_path: Path, monkeypatch):
    """`results(rows, ...)`: what becomes of each of these words, by row; some words end the process, or hang."""
    (tmp_path / "deadly.py").write_text(DEADLY, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    def run(rows: list[str], num_workers: int, patience_seconds: float = 600.0) -> list:
        deadly = importlib.import_module("deadly")
        given = list(
            share_out(deadly.Table(rows), deadly.work, num_workers=num_workers, patience_seconds=patience_seconds)
        )
        assert sorted(row for row, _ in given) == list(range(len(rows)))  # each row once
        return [result for _, result in sorted(given, key=lambda pair: pair[0])]

    return run


def test_a_row_that_ends_its_process_is_lost_and_the_rest_is_done(results):
    rows = [*"abcdefgh", "exits", *"ij", "crashes", "k"]
    expected = [row.upper() for row in rows]
    expected[8] = Lost("the process that read it ended with exit code 7")
    expected[11] = Lost("the process that read it ended with signal SIGSEGV")
    if os.name != "posix":
        expected[11] = results(["crashes"], 1)[0]
        assert isinstance(expected[11], Lost)
    assert results(rows, num_workers=1) == expected


@pytest.mark.slow
def test_a_row_that_takes_forever_is_given_up(results):
    lost = Lost("nothing came of reading it for 5 s")
    assert results(["a", "hangs", "b"], num_workers=2, patience_seconds=5.0) == ["A", lost, "B"]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 3])
def test_every_row_is_done_once_by_any_number_of_processes(results, num_workers):
    rows = [f"word {number}" for number in range(200)]
    assert results(rows, num_workers) == results(rows, 0) == [row.upper() for row in rows]


def test_a_table_without_rows_needs_no_process(results):
    assert results([], 4) == []


def test_a_process_that_cannot_start_is_an_error_and_not_the_fault_of_a_row(results, tmp_path, monkeypatch):
    results(["a"], 0)
    (tmp_path / "deadly.py").write_text("import os; os._exit(3)", encoding="utf-8")
    with pytest.raises(OSError, match="ended before it began, with exit code 3"):
        results(["a"], 1)
