import os

import pytest
import torch

from core.connectors.initial_weights import read_weights
from tools.conversion.safetensors_file import write_safetensors

CONFIG = {"encoder": {"d_model": 16}}


def test_tensors_and_config_are_read_back(tmp_path):
    tensor = torch.arange(6.0).reshape(2, 3)
    write_safetensors(CONFIG, {"a": tensor, "b": tensor, "c": tensor.T}, tmp_path / "x.safetensors")
    weights = read_weights(tmp_path / "x.safetensors")
    torch.testing.assert_close(weights.state_dict, {"a": tensor, "b": tensor, "c": tensor.T}, rtol=0, atol=0)
    assert weights.config == CONFIG


@pytest.mark.parametrize(("right", "wrong"), [(b"\0\0\x40\x40", b"\0\0\x40\x41"), (b"d_model", b"d_madel")])
def test_a_changed_byte_is_noticed(tmp_path, right, wrong):
    path = tmp_path / "x.safetensors"
    write_safetensors(CONFIG, {"a": torch.full((2,), 3.0)}, path)
    content = path.read_bytes()
    assert right in content
    path.write_bytes(content.replace(right, wrong, 1))
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        read_weights(path)


@pytest.mark.skipif(os.name == "nt", reason="files have no modes there")
def test_it_may_be_read_by_who_may_read_other_new_files(tmp_path):
    (tmp_path / "other").touch()
    write_safetensors(CONFIG, {"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
