import importlib.util
import sys

import pytest

from tools.parity.records import RECORDS
from tools.parity.sources import KeptRecords, LiveNemo

needs_no_nemo = pytest.mark.skipif(importlib.util.find_spec("nemo") is not None, reason="NeMo is installed here")


@needs_no_nemo
def test_a_python_without_nemo_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"can't import NeMo \(ModuleNotFoundError: .*\): give --nemo-python") as error:
        LiveNemo(sys.executable, tmp_path)
    assert "\n" not in str(error.value)


def test_a_python_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"can't be started .*: give the path of a Python"):
        LiveNemo(str(tmp_path / "no_python"), tmp_path)


def test_a_program_that_is_no_python_is_refused(tmp_path, monkeypatch):
    """One that ends at once, without an answer."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(3)", encoding="utf-8")
    with pytest.raises(ValueError, match="stopped with 3"):
        LiveNemo(sys.executable, tmp_path)


def test_kept_records_say_of_which_nemo_they_are():
    records = KeptRecords(RECORDS)
    assert records.description == "records of NeMo 3.0.0 in records/"
    assert len(list(records.all())) == len(list(RECORDS.glob("*.safetensors")))


def test_a_folder_without_records_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match="holds no records: make some with --record"):
        KeptRecords(tmp_path)
