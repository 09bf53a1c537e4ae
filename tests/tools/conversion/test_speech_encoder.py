import pytest
import torch

from core.connectors.initial_weights import Weights
from models.ssl_models import EncDecDenoiseMaskedTokenPredModel
from tools.conversion.encoder_file import encoder_weights, wrapped_names
from tools.conversion.speech_encoder import SpeechEncoder, build_model, encoder_of, with_encoder


@pytest.fixture(scope="module")
def nest(small_config):
    def make(seed: int = 0, **changes) -> EncDecDenoiseMaskedTokenPredModel:
        torch.manual_seed(seed)
        options = {"train_ds.manifest_filepath": None, "encoder.n_layers": 1} | changes
        return EncDecDenoiseMaskedTokenPredModel(small_config(**options)).eval()

    return make


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("mask_position", ["pre_conv", "post_conv"])
def test_an_encoder_computes_what_it_does_in_its_model(nest, mask_position):
    model = nest(mask_position=mask_position)
    features, frames = torch.randn(2, 80, 100), torch.tensor([100, 61])
    with torch.no_grad():
        expected = model.encoder(audio_signal=features, length=frames)
        found = encoder_of(model).encoder(audio_signal=features, length=frames)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_names_with_masking_are_those_without_and_back(nest):
    state = nest(mask_position="post_conv").encoder.state_dict(prefix="encoder.")
    plain = nest().encoder.state_dict(prefix="encoder.")
    assert encoder_weights(state).keys() == plain.keys()
    assert wrapped_names(plain).keys() == {name for name in state if ".masking." not in name}


@pytest.mark.parametrize("mask_position", ["pre_conv", "post_conv"])
def test_a_base_gets_the_encoder_whichever_way_it_masks(nest, mask_position):
    model, base = nest(1), nest(2, mask_position=mask_position)
    quantizer = base.quantizer.state_dict()
    new = with_encoder(base, model, "x.nemo")
    assert same(encoder_of(new).encoder.state_dict(), encoder_of(model).encoder.state_dict())
    assert same(new.quantizer.state_dict(), quantizer)


def test_an_encoder_is_no_base(nest):
    with pytest.raises(ValueError, match="--base holds an encoder only"):
        with_encoder(encoder_of(nest()), nest(), "x.nemo")


def test_a_config_without_an_encoder_is_refused(nest):
    cfg = nest().cfg.copy()
    del cfg.encoder
    with pytest.raises(ValueError, match=r"model\.encoder is missing"):
        SpeechEncoder(cfg)


@pytest.mark.parametrize("only_encoder", [True, False])
def test_a_model_far_larger_than_its_weights_is_not_built(nest, only_encoder):
    model = encoder_of(nest()) if only_encoder else nest()
    cfg = model.cfg.copy()
    cfg.encoder.n_layers = 100_000
    with pytest.raises(ValueError, match=r"x\.nemo: .* far larger than its weights"):
        build_model(Weights(model.state_dict(), cfg, "x.nemo"))


def test_weights_without_a_config_are_refused(nest):
    with pytest.raises(ValueError, match=r"x\.ckpt says nothing of the model's config"):
        build_model(Weights(nest().state_dict(), None, "x.ckpt"))
