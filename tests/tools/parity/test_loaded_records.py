"""Records of strangers: what they name is neither imported nor written, and what is no record is told in one line."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from tools.parity.cases import CASES, Case
from tools.parity.jobs import kept_job
from tools.parity.records import Record, description_of, load, save

NAME = "encoder_default"


def saved(path, **changes):
    save(Record(replace(kept_job(NAME), **changes), {"side": "nemo", "nemo_version": "3.0.0"}), path)
    return path


@pytest.mark.parametrize("class_path", ["subprocess.Popen", "models.ssl_models.torch", "", "os.system"])
def test_a_record_names_no_class_but_those_that_are_compared(class_path, tmp_path):
    path = saved(tmp_path / "x.safetensors", case=Case(class_path, {"args": ["touch", str(tmp_path / "touched")]}))
    with pytest.raises(ValueError, match=r"x\.safetensors is no record .* is not one of models\.ssl_models\."):
        load(path)


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "a\\b", "c:x", ""])
def test_a_record_names_no_folder(name, tmp_path):
    with pytest.raises(ValueError, match="is no name for a file"):
        load(saved(tmp_path / "x.safetensors", name=name))


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_one_that_a_record_may_be_of(case, tmp_path):
    path = tmp_path / "x.safetensors"
    save(Record(kept_job(case), {"side": "nemo"}), path)
    assert load(path).job.case.class_path == CASES[case].class_path


@pytest.mark.parametrize("read", [load, description_of])
@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"record": "{"}, {"record": "[]"}, {"record": "{}"}])
def test_a_file_of_something_else_is_refused_in_one_line(read, metadata, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata)
    with pytest.raises(ValueError, match=r"model\.safetensors is no record .*: make it anew, or remove it") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_a_broken_file_is_refused_in_one_line(tmp_path):
    path = saved(tmp_path / "x.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="SafetensorError"):
        load(path)
