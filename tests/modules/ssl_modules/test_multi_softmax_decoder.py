import pytest
import torch

from modules.ssl_modules.multi_softmax_decoder import WEIGHT_INITS, MultiSoftmaxDecoder


def test_channel_v_times_books_plus_q_is_code_v_of_book_q():
    decoder = MultiSoftmaxDecoder(feat_in=6, num_classes=5, num_decoders=3, use_bias=True)
    states = torch.randn(2, 6, 4)
    log_probs = decoder(encoder_output=states)
    logits = decoder.decoder_layers(states)  # (B, V*Q, S)
    assert log_probs.shape == (2, 4, 5, 3)
    for book in range(3):
        expected = logits[:, book::3].transpose(1, 2).log_softmax(-1)
        assert torch.allclose(log_probs[..., book], expected, atol=1e-6)


@pytest.mark.parametrize(
    "books, squeeze, shape", [(1, True, (2, 4, 5)), (1, False, (2, 4, 5, 1)), (2, True, (2, 4, 5, 2))]
)
def test_only_a_single_book_is_squeezed(books, squeeze, shape):
    decoder = MultiSoftmaxDecoder(6, 5, books, squeeze_single=squeeze)
    assert decoder(encoder_output=torch.randn(2, 6, 4)).shape == shape


def test_selected_states_get_the_same_log_probs():
    decoder = MultiSoftmaxDecoder(6, 5, 2)
    states, chosen = torch.randn(2, 6, 4), torch.tensor([[True, False, True, True], [False, True, False, False]])
    everything = decoder(encoder_output=states)
    assert torch.allclose(decoder.log_probs(states.transpose(1, 2)[chosen]), everything[chosen], atol=1e-6)


def test_log_probs_are_float32_in_bfloat16_models_and_under_autocast():
    decoder = MultiSoftmaxDecoder(6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert decoder(encoder_output=torch.randn(2, 6, 4)).dtype == torch.float32
    assert decoder.bfloat16()(encoder_output=torch.randn(2, 6, 4).bfloat16()).dtype == torch.float32
    assert decoder.double()(encoder_output=torch.randn(2, 6, 4).double()).dtype == torch.float64


STD = {  # of a (600, 200, 1) weight
    "xavier_uniform": (2 / 800) ** 0.5,
    "xavier_normal": (2 / 800) ** 0.5,
    "kaiming_uniform": (2 / 200) ** 0.5,
    "kaiming_normal": (2 / 200) ** 0.5,
    "tds_uniform": (4 / 3 / 200) ** 0.5,
    "tds_normal": (4 / 200) ** 0.5,
    None: (1 / 3 / 200) ** 0.5,
}


@pytest.mark.parametrize("mode", WEIGHT_INITS)
def test_initial_weights_have_the_variance_of_their_mode(mode):
    torch.manual_seed(0)
    weight = MultiSoftmaxDecoder(200, 300, 2, init_mode=mode).decoder_layers[0].weight
    assert weight.std().item() == pytest.approx(STD[mode], rel=0.02)
    is_bounded = weight.abs().max() < 1.8 * weight.std()
    assert is_bounded == (mode is None or mode.endswith("uniform"))


def test_bias_is_optional():
    assert list(MultiSoftmaxDecoder(6, 5).state_dict()) == ["decoder_layers.0.weight"]
    assert list(MultiSoftmaxDecoder(6, 5, use_bias=True).state_dict()) == [
        "decoder_layers.0.weight",
        "decoder_layers.0.bias",
    ]


def test_an_unknown_init_mode_is_named():
    with pytest.raises(ValueError, match=r"^decoder\.init_mode='orthogonal' is not one of xavier_uniform, "):
        MultiSoftmaxDecoder(6, 5, init_mode="orthogonal")
