import subprocess
import sys
from pathlib import Path

import pytest

from tools import import_time
from tools.parity import speed_side
from tools.parity.speed_side import import_model, seconds_to_import

ROOT = Path(speed_side.__file__).resolve().parents[2]


def test_nothing_that_is_timed_is_imported_by_the_clock_itself():
    code = "import sys, tools.parity.speed_side; print(*(set(sys.modules) & {'torch', 'numpy', 'models', 'lightning'}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True)
    assert done.stdout.split() == []


def test_the_time_of_an_import_is_that_of_the_module(tmp_path, monkeypatch):
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(0.05)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert seconds_to_import("slow_to_import") >= 0.05
    assert "slow_to_import" in sys.modules


def test_torch_and_lightning_come_first_then_the_sides_model(monkeypatch):
    imported = []
    monkeypatch.setattr(speed_side, "seconds_to_import", lambda *modules: imported.append(modules) or len(imported))
    assert import_model("nemo") == {"base": 1, "model": 2}
    assert imported == [("torch", "lightning.pytorch"), ("nemo.collections.asr.models.ssl_models",)]


@pytest.mark.slow
def test_the_program_tells_import_times(capsys):
    import_time.main(["--runs", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].startswith("import of the model class") and all("-" in line for line in lines)
