"""NeMo's models through Hugging Face and safetensors and back into NeMo: the same states.

Runs where NeMo 3.0.0 can be imported (`pytest -m nemo tests/parity/test_conversion_against_nemo.py` in its
environment).
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from tools.conversion.self_check import synthesise
from tools.convert_checkpoint import main
from tools.parity.cases import DENOISE, NEMO, SEED, model_case, seed_everything, shift_weights

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif(importlib.util.find_spec("nemo") is None, reason="needs the real NeMo 3.0.0 to be installed"),
]

ON_THE_WAY = {
    "Hugging Face": "parakeet",
    "safetensors": "x.safetensors",
    "Lightning": "x.ckpt",
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> tuple[torch.nn.Module, Path]:
    """A model of NeMo's and the file that NeMo wrote of it."""
    seed_everything(SEED)
    model = model_case(DENOISE, **{"encoder.n_layers": 2}).build(NEMO)
    shift_weights(model, SEED)
    path = tmp_path_factory.mktemp("nemo") / "theirs.nemo"
    model.eval().save_to(str(path))
    return model, path


@torch.no_grad()
def states(model: torch.nn.Module) -> torch.Tensor:
    audio = [torch.from_numpy(x) for x in synthesise(16000)]
    lengths = torch.tensor([len(x) for x in audio])
    padded = torch.nn.utils.rnn.pad_sequence(audio, batch_first=True)
    features, frames = model.preprocessor(input_signal=padded, length=lengths)
    return model.encoder(audio_signal=features, length=frames)[0]


@pytest.mark.parametrize("via", ON_THE_WAY.values(), ids=ON_THE_WAY)
def test_an_encoder_comes_back_to_nemo_as_it_left(theirs, tmp_path, via):
    from nemo.core import ModelPT

    model, path = theirs
    main([str(path), str(tmp_path / via), *(["--encoder-only"] if "." in via else [])])
    main([str(tmp_path / via), str(tmp_path / "back.nemo")])
    back = ModelPT.restore_from(str(tmp_path / "back.nemo"), map_location="cpu").eval()
    assert type(back).__name__ == "SpeechEncDecSelfSupervisedModel"
    assert torch.equal(states(back), states(model))


def test_a_whole_model_comes_back_to_nemo_as_it_left(theirs, tmp_path):
    from nemo.core import ModelPT

    model, path = theirs
    main([str(path), str(tmp_path / "x.ckpt")])
    main([str(tmp_path / "x.ckpt"), str(tmp_path / "x.safetensors")])
    main([str(tmp_path / "x.safetensors"), str(tmp_path / "back.nemo")])
    back = ModelPT.restore_from(str(tmp_path / "back.nemo"), map_location="cpu").eval()
    assert type(back) is type(model)
    theirs_state, state = model.state_dict(), back.state_dict()
    assert theirs_state.keys() == state.keys() and all(torch.equal(x, state[name]) for name, x in theirs_state.items())
