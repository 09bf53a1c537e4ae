import subprocess
import sys
from pathlib import Path

import pytest

from tools import peak_memory
from tools.peak_memory import peak_bytes

ROOT = Path(peak_memory.__file__).resolve().parents[1]
MEBIBYTE = 2**20
ASK = "from tools.peak_memory import peak_bytes; print(peak_bytes())"
needs_a_figure = pytest.mark.skipif(peak_bytes() is None, reason="peak memory isn't known here")


def peak_after(code: str) -> int:
    """Of a fresh Python that runs this first."""
    command = [sys.executable, "-c", f"{code}\n{ASK}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True)
    return int(done.stdout)


@needs_a_figure
def test_memory_that_was_freed_counts():
    assert peak_after("x = bytearray(200 << 20)\ndel x") - peak_after("") > 190 * MEBIBYTE


@needs_a_figure
def test_the_memory_of_who_started_a_process_does_not_count():
    mine = bytearray(400 * MEBIBYTE)
    assert peak_after("") < len(mine) / 2


def test_without_resource_and_proc_it_is_not_known(monkeypatch, tmp_path):
    monkeypatch.setattr(peak_memory, "resource", None)
    monkeypatch.setattr(peak_memory, "STATUS", tmp_path / "status")
    assert peak_bytes() is None
