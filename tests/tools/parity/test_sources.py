import importlib.util
import shutil
import sys
from dataclasses import replace

import pytest

from tools.parity import records
from tools.parity.cases import CASES
from tools.parity.records import RECORDS, Job
from tools.parity.sources import KeptRecords, LiveNemo
from tools.side_process import SideFailed, SideProcess

needs_no_nemo = pytest.mark.skipif(importlib.util.find_spec("nemo") is not None, reason="NeMo is installed here")


@needs_no_nemo
def test_a_python_without_nemo_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"can't import NeMo \(ModuleNotFoundError: .*\): give --nemo-python") as error:
        LiveNemo(sys.executable, tmp_path)
    assert "\n" not in str(error.value)


def test_a_python_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"can't be started .*: give the path of a Python"):
        LiveNemo(str(tmp_path / "no_python"), tmp_path)


def test_a_program_that_is_no_python_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no Python: give --nemo-python"):
        LiveNemo(shutil.which("sort"), tmp_path)


ANSWERING = """
import os
from pathlib import Path
from tools.parity.records import load, save
from tools.side_process import serve

def measure(job, record, folder):
    asked = load(Path(job))
    if asked.job.name == "dies":
        os._exit(9)
    save(asked, Path(record))
    return {}

serve({"describe": lambda: {"nemo_version": "3.0.0", "torch_version": "2"}, "measure": measure})
"""


def test_after_a_job_at_which_nemos_process_died_the_next_gets_another(tmp_path, monkeypatch):
    (tmp_path / "answering.py").write_text(ANSWERING, encoding="utf-8")
    environment = {"PYTHONPATH": str(tmp_path)}
    monkeypatch.setattr(LiveNemo, "start", lambda nemo: SideProcess(nemo.python, "answering", environment=environment))
    job = Job("lives", CASES["encoder_default"], ())
    with LiveNemo(sys.executable, tmp_path) as nemo:
        assert nemo.record(job).job.name == "lives"
        with pytest.raises(SideFailed, match="stopped with 9"):
            nemo.record(replace(job, name="dies"))
        assert nemo.record(job).job.name == "lives"


def test_kept_records_say_of_which_nemo_they_are():
    found = KeptRecords(RECORDS)
    assert found.description == "records of NeMo 3.0.0 in records/"
    assert len(list(found.named(""))) == len(list(RECORDS.glob("*.safetensors")))


def test_of_the_kept_records_only_those_asked_for_are_read(monkeypatch):
    read = []
    monkeypatch.setattr(records, "record_of", lambda description, tensors: read.append(description["job"]["name"]))
    assert len(list(KeptRecords(RECORDS).named("pre_conv_squeezed"))) == 1
    assert read == ["model_pre_conv_squeezed"]


def test_a_folder_without_records_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"holds no records: make .*--record"):
        KeptRecords(tmp_path)
