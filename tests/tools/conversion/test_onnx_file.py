
import pytest
import torch

from modules.audio_preprocessing import AudioToMelSpectrogramPreprocessor
from tools.conversion.onnx_file import run_onnx, write_onnx
from tools.parity.cases import DENOISE, encoder_case, model_case, shift_weights

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

FRAMES = [400, 401, 402, 403, 404]
SIZES = [*((1, frames) for frames in FRAMES), (1, 1), (1, 8), (1, 9), (3, 61), (4, 3000)]  # items, frames; 30 s
SAMPLES = [*((1, 160 * frames) for frames in FRAMES), (1, 100), (1, 300), (3, 9999), (2, 480000)]
LIMIT = 1e-4  # of the largest difference


class Model(torch.nn.Module):
    """What `write_onnx` needs of a model."""

    def __init__(self, preprocessor=None, **encoder):
        super().__init__()
        case = encoder_case(**encoder)
        torch.manual_seed(0)
        self.encoder = case.build("")
        self.preprocessor = preprocessor or AudioToMelSpectrogramPreprocessor(features=case.config["feat_in"])
        self.cfg = {"encoder": case.config}
        shift_weights(self.encoder, seed=1)


def ragged(batch, size, *shape):
    """Noise and lengths, the first of which is the longest."""
    generator = torch.Generator().manual_seed(size)
    lengths = torch.randint(1, size + 1, (batch,), generator=generator)
    lengths[0] = size
    return torch.randn(batch, *shape, size, generator=generator), lengths


@torch.no_grad()
def largest_difference(model, path, x, lengths):
    """Over valid steps, between ONNX Runtime and the model in evaluation mode, on a waveform or on features."""
    model.eval()
    encoded, encoded_lengths = run_onnx(path, x, lengths)
    if x.dim() == 2:
        x, lengths = model.preprocessor(input_signal=x, length=lengths)
    expected, expected_lengths = model.encoder(audio_signal=x, length=lengths)
    assert torch.equal(encoded_lengths, expected_lengths) and encoded.shape == expected.shape
    differences = [(a - b)[:, :n].abs() for a, b, n in zip(encoded, expected, expected_lengths)]
    return max((float(d.max()) for d in differences if d.numel()), default=0.0)


@pytest.fixture(scope="module")
def model():
    return model_case(DENOISE, **{"encoder.n_layers": 1}).build("")


@pytest.fixture(scope="module")
def of_features(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "features.onnx"
    write_onnx(model.train(), path, with_preprocessor=False)
    return path


@pytest.fixture(scope="module")
def of_waveforms(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "waveforms.onnx"
    write_onnx(model.train(), path, with_preprocessor=True)
    return path


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_features_of_any_size_are_encoded_as_by_the_model(model, of_features, size):
    assert largest_difference(model, of_features, *ragged(*size, 80)) < LIMIT


@pytest.mark.parametrize("size", SAMPLES, ids=str)
def test_waveforms_of_any_size_are_encoded_as_by_the_model(model, of_waveforms, size):
    assert largest_difference(model, of_waveforms, *ragged(*size)) < LIMIT


def test_real_speech_is_encoded_as_by_the_model(model, of_waveforms, shared_data):
    soundfile = pytest.importorskip("soundfile")
    items = []
    for path in sorted((shared_data / "speech").rglob("*.flac"))[:4]:
        items.append(torch.from_numpy(soundfile.read(path, dtype="float32")[0]))
    lengths = torch.tensor([len(item) for item in items])
    x = torch.nn.utils.rnn.pad_sequence(items, batch_first=True)
    assert len(set(lengths.tolist())) > 1 and largest_difference(model, of_waveforms, x, lengths) < LIMIT
