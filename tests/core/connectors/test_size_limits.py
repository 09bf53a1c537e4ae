"""Sizes in a config that the weights beside it don't have are refused before a model of them is built."""


import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from core.connectors.nemo_file import read_nemo_config, read_nemo_weights, write_nemo
from core.connectors.size_limits import no_larger_than_file
from models.ssl_models import EncDecDenoiseMaskedTokenPredModel as Model

LARGE = {
    "encoder.n_layers": 100_000,
    "encoder.ff_expansion_factor": 1_000_000,
    "preprocessor.n_fft": 2**30,
    "quantizer.num_classes": 10**8,
    "decoder.num_classes": 10**8,
}


@pytest.fixture(scope="module")
def whole(small_config, tmp_path_factory):
    path = tmp_path_factory.mktemp("nemo") / "x.nemo"
    Model(small_config()).save_to(path)
    return path


@pytest.mark.parametrize("key", LARGE)
def test_a_large_size_in_a_small_file_is_refused(key, whole, tmp_path):
    config, weights = read_nemo_config(whole), read_nemo_weights(whole)
    OmegaConf.update(config, key, LARGE[key])
    write_nemo(tmp_path / "large.nemo", config, weights)
    with pytest.raises(ValueError, match=r"large\.nemo: its config ") as raised:
        Model.restore_from(tmp_path / "large.nemo", map_location="cpu")
    assert "\n" not in str(raised.value)


def test_a_model_of_the_size_of_its_file_is_built_as_ever():
    weights = {"weight": torch.zeros(3, 2), "bias": torch.zeros(3)}
    config = {"encoder": {"_target_": "x.Y", "d_model": 1000, "seed": 2**40, "sizes": [1, 2]}}
    with no_larger_than_file(config, weights, "x.nemo"):
        built = nn.Linear(2, 3)
    built.load_state_dict(weights)
    assert torch.equal(built.weight, weights["weight"])


def test_what_does_not_fit_into_memory_is_one_line():
    refused = pytest.raises(ValueError, match=r"x\.nemo: its config describes a model that doesn't fit into memory")
    with refused, no_larger_than_file({}, {}, "x.nemo"):
        raise MemoryError
