import pytest
import torch

from modules.audio_preprocessing import AudioToMelSpectrogramPreprocessor, AudioToMFCCPreprocessor
from parts.lengths import is_padding
from parts.preprocessing import normalization
from parts.submodules import attention
from parts.submodules.reduction import PoolingReduction
from tools.conversion import onnx_layers


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_distances_land_on_their_keys(steps):
    scores = torch.randn(2, 3, steps, 2 * steps - 1)
    assert torch.equal(onnx_layers.distances_to_keys(scores), attention.distances_to_keys(scores))


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("steps", [8, 9, 11])
def test_pooling_in_two_dimensions_is_pooling_in_one(steps, factor):
    x, lengths = torch.randn(2, steps, 5), torch.tensor([steps, 6])
    layer = PoolingReduction(5, factor)
    pooled, left = onnx_layers.pool_over_steps(layer, x, lengths)
    expected, expected_left = layer(x, lengths)
    assert torch.equal(pooled, expected) and torch.equal(left, expected_left)


def test_all_features_are_normalized_without_lengths_in_python():
    x, padding = torch.randn(3, 5, 40) * 3 + 2, is_padding(torch.tensor([40, 17, 1]), 40)[:, None]
    expected = normalization.normalize_all_features(x, padding)
    torch.testing.assert_close(onnx_layers.normalize_all_at_once(x, padding), expected, rtol=1e-5, atol=1e-5)


PREPROCESSORS = {
    "as shipped": AudioToMelSpectrogramPreprocessor(window_size=0.025, n_fft=512, features=80),
    "exact_pad": AudioToMelSpectrogramPreprocessor(exact_pad=True),
    "mag_power": AudioToMelSpectrogramPreprocessor(mag_power=1.0, window="hamming"),
    "all_features": AudioToMelSpectrogramPreprocessor(normalize="all_features"),
    "mfcc": AudioToMFCCPreprocessor(),
}


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_features_are_those_of_the_preprocessor(name):
    preprocessor = PREPROCESSORS[name].eval()
    x, lengths = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)), torch.tensor([8000, 5001])
    expected, expected_lengths = preprocessor(input_signal=x, length=lengths)
    with onnx_layers.exportable(preprocessor):
        features, frames = preprocessor(input_signal=x, length=lengths)
    assert torch.equal(frames, expected_lengths)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_after_the_export_everything_is_as_before():
    before = [getattr(owner, name) for owner, name, _ in onnx_layers.STAND_INS]
    with pytest.raises(KeyError), onnx_layers.exportable(torch.nn.Identity()):
        assert attention.distances_to_keys is onnx_layers.distances_to_keys
        raise KeyError
    assert before == [getattr(owner, name) for owner, name, _ in onnx_layers.STAND_INS]
