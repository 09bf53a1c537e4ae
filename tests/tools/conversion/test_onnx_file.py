import json

import pytest
import torch

from modules.audio_preprocessing import AudioToMelSpectrogramPreprocessor, AudioToMFCCPreprocessor
from parts.submodules.attention_models import ATTENTION
from parts.submodules.convolution import NORM
from parts.submodules.reduction import REDUCTION
from parts.submodules.subsampling import SUBSAMPLING
from tools.conversion import onnx_file
from tools.conversion.onnx_file import check_installed, run_onnx, write_onnx
from tools.parity.cases import DENOISE, ENCODERS, PLAIN, encoder_case, model_case, shift_weights

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
    """A whole model of one block."""
    return model_case(DENOISE, **{"encoder.n_layers": 1}).build("")


@pytest.fixture(scope="module")
def of_waveforms(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "waveforms.onnx"
    model.train()
    write_onnx(model, path, with_preprocessor=True)
    assert all(module.training for module in model.modules())
    return path


@pytest.fixture(scope="module")
def of_features(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "features.onnx"
    write_onnx(model, path, with_preprocessor=False)
    return path


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_features_of_any_size_are_encoded_as_by_the_model(model, of_features, size):
    assert largest_difference(model, of_features, *ragged(*size, 80)) < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("size", SAMPLES, ids=str)
def test_waveforms_of_any_size_are_encoded_as_by_the_model(model, of_waveforms, size):
    assert largest_difference(model, of_waveforms, *ragged(*size)) < LIMIT


@pytest.mark.slow
def test_real_speech_is_encoded_as_by_the_model(model, of_waveforms, shared_data):
    soundfile = pytest.importorskip("soundfile")
    items = []
    for path in sorted((shared_data / "speech").rglob("*.flac"))[:4]:
        items.append(torch.from_numpy(soundfile.read(path, dtype="float32")[0]))
    lengths = torch.tensor([len(item) for item in items])
    x = torch.nn.utils.rnn.pad_sequence(items, batch_first=True)
    assert len(set(lengths.tolist())) > 1 and largest_difference(model, of_waveforms, x, lengths) < LIMIT


def test_the_model_is_as_before_when_an_export_fails(model, tmp_path, monkeypatch):
    def failing(exported):
        assert not any(module.training for module in exported.modules())
        assert not any(p.requires_grad for p in exported.parameters())
        raise KeyError("an operator")

    monkeypatch.setattr(onnx_file, "export", failing)
    model.train()
    model.encoder.layers[0].eval()
    modes = [module.training for module in model.modules()]
    gradients = [p.requires_grad for p in model.parameters()]
    with pytest.raises(KeyError):
        write_onnx(model, tmp_path / "x.onnx", with_preprocessor=False)
    assert modes == [module.training for module in model.modules()]
    assert gradients == [p.requires_grad for p in model.parameters()]
    assert not list(tmp_path.iterdir())


def test_a_file_tells_what_it_is(of_features):
    check_what_it_tells(onnx.load(of_features), "features", "frames")


@pytest.mark.slow
def test_a_file_of_waveforms_tells_what_it_is(of_waveforms):
    check_what_it_tells(onnx.load(of_waveforms), "waveform", "samples")


def check_what_it_tells(file, signal, axis):
    told = {entry.key: entry.value for entry in file.metadata_props}
    assert told["sample_rate"] == "16000" and told["opset"] == "18" and told["input"] == signal
    assert told["nest_ssl_version"].count(".") == 2
    config = json.loads(told["config"])
    assert config["encoder"]["d_model"] == 16 and config["preprocessor"]["window_size"] == 0.025
    assert not any(key.endswith("_ds") for key in config)  # paths of the machine that trained stay there
    axes = [[d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] for x in file.graph.input]
    assert axes[0][0] == "batch" and axes[0][-1] == axis and axes[1] == ["batch"]
    names = [x.name for x in (*file.graph.input, *file.graph.output)]
    assert names == [signal, "lengths", "encoded", "encoded_lengths"]


# files


@pytest.fixture
def ir_model(of_features):
    import onnxscript

    return onnxscript.ir.load(of_features)


def test_big_weights_stand_beside_the_file_and_older_ones_go(ir_model, model, tmp_path, monkeypatch):
    path = tmp_path / "big.onnx"
    monkeypatch.setattr(onnx_file, "LARGEST_FILE_BYTES", 1000)
    onnx_file.save(ir_model, path)
    (first,) = tmp_path.glob("big.onnx.*.data")
    other = tmp_path / "big.onnx.notes.data"
    other.write_text("not ours")
    onnx_file.save(ir_model, path)
    assert not first.exists() and other.exists()
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.chdir("/")
    assert largest_difference(model, path, *ragged(2, 61, 80)) < LIMIT


def test_a_file_that_can_t_be_written_leaves_the_one_before(ir_model, model, tmp_path, monkeypatch):
    import onnxscript

    path = tmp_path / "big.onnx"
    monkeypatch.setattr(onnx_file, "LARGEST_FILE_BYTES", 1000)
    onnx_file.save(ir_model, path)
    before = set(tmp_path.iterdir())

    def disk_full(model, path, **options):
        path.write_bytes(b"some")
        path.with_name(options["external_data"]).write_bytes(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnxscript.ir, "save", disk_full)
    with pytest.raises(OSError, match="No space left"):
        onnx_file.save(ir_model, path)
    assert set(tmp_path.iterdir()) == before
    assert largest_difference(model, path, *ragged(2, 61, 80)) < LIMIT


# what is refused


def test_missing_packages_are_named_with_what_to_type(monkeypatch, tmp_path, model):
    monkeypatch.setattr(onnx_file, "PACKAGES", ("onnx", "no_such_onnx"))
    with pytest.raises(ImportError, match=r"^ONNX files need no_such_onnx: pip install -r requirements-convert.txt$"):
        write_onnx(model, tmp_path / "x.onnx", with_preprocessor=False)
    with pytest.raises(ImportError, match="no_such_onnx"):
        run_onnx(tmp_path / "x.onnx")


def test_an_old_torch_is_told_which_one_is_needed(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.4.1+cpu")
    with pytest.raises(ImportError, match=r"^ONNX files need torch 2\.7 or newer, this is 2\.4\.1\+cpu"):
        check_installed()


def test_only_float32_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"^encoder\..* is torch.bfloat16; .* call model.float\(\) first$"):
        write_onnx(Model().bfloat16(), tmp_path / "x.onnx", with_preprocessor=False)


def test_features_of_one_size_are_refused_by_name(tmp_path):
    model = Model(AudioToMelSpectrogramPreprocessor(features=16, pad_to="max"))
    with pytest.raises(ValueError, match=r"^preprocessor\.pad_to='max' "):
        write_onnx(model, tmp_path / "x.onnx", with_preprocessor=True)


@pytest.mark.parametrize("axis", [0, 2])
def test_a_size_that_the_exporter_fixed_is_no_file(ir_model, axis):
    import onnxscript

    onnx_file.check_sizes_are_free(ir_model)
    features = ir_model.graph.inputs[0]
    sizes = ["batch", 80, "frames"]
    sizes[axis] = 7
    features.shape = onnxscript.ir.Shape(sizes)
    with pytest.raises(RuntimeError, match=f"wrote features for size 7 of axis {axis} only"):
        onnx_file.check_sizes_are_free(ir_model)


# all that can be built can be written

OPTIONS = {
    **ENCODERS,
    **{f"{name} {factor}": {"subsampling": name, "subsampling_factor": factor}
       for name in SUBSAMPLING for factor in (2, 4, 8)},
    "no subsampling": {"subsampling_factor": 1},
    **{f"attention {name}": {"self_attention_model": name, "att_context_size": [4, 4]} for name in ATTENTION},
    "spaced global tokens": {"self_attention_model": "rel_pos_local_attn", "att_context_size": [3, 2],
                             "global_tokens": 2, "global_tokens_spacing": 7, "global_attn_separate": True},
    "math sdpa": {"use_pytorch_sdpa": True, "use_pytorch_sdpa_backends": ["MATH"]},
    **{f"norm {name}": {"conv_norm_type": name} for name in NORM},
    **{f"reduction {name}": {"reduction": name, "reduction_position": 0, "reduction_factor": 4} for name in REDUCTION},
    "pieces": {"subsampling_conv_chunking_factor": 2},
}  # fmt: skip
TOO_SHORT = {"norm instance_norm": 9, "fused_attention_instance_norm": 9}  # frames that torch refuses below


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_the_encoder_can_be_written(name, tmp_path):
    model, path = Model(**OPTIONS[name]), tmp_path / "encoder.onnx"
    write_onnx(model, path, with_preprocessor=False)
    shortest = 32 if "reduction" in name else TOO_SHORT.get(name, 1)
    for batch, frames in SIZES:
        if frames >= shortest:
            assert largest_difference(model, path, *ragged(batch, frames, 16)) < LIMIT, (batch, frames)


PREPROCESSORS = {
    "exact_pad": {"exact_pad": True},
    "no padding": {"pad_to": 0, "normalize": None},
    "all_features": {"normalize": "all_features"},
    "fixed": {"normalize": {"fixed_mean": [-5.0] * 16, "fixed_std": [2.0] * 16}},
    "magnitudes without logarithm": {"mag_power": 1.0, "log": False},
    "clamped": {"log_zero_guard_type": "clamp", "preemph": None, "window": "hamming"},
    "spliced": {"features": 8, "frame_splicing": 2},
    "narrow": {"sample_rate": 8000, "window_size": 0.032, "pad_value": 1.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PREPROCESSORS, "mfcc"])
def test_every_option_of_the_preprocessor_can_be_written(name, tmp_path):
    if name == "mfcc":
        preprocessor = AudioToMFCCPreprocessor(n_mfcc=16)
    else:
        preprocessor = AudioToMelSpectrogramPreprocessor(**({"features": 16} | PREPROCESSORS[name]))
    model, path = Model(preprocessor), tmp_path / "encoder.onnx"
    write_onnx(model, path, with_preprocessor=True)
    for batch, samples in SAMPLES:
        if samples >= 300:
            assert largest_difference(model, path, *ragged(batch, samples)) < LIMIT, (batch, samples)


@pytest.mark.slow
@pytest.mark.parametrize("cls", [PLAIN, DENOISE])
def test_a_model_that_masks_steps_is_written_without_masks(cls, tmp_path):
    model = model_case(cls, **{"mask_position": "post_conv", "quantizer.combine_time_steps": 1}).build("")
    model.pre_encoder.set_masking_enabled(apply_mask=True)
    write_onnx(model, tmp_path / "x.onnx", with_preprocessor=False)
    assert model.pre_encoder.apply_mask and model.pre_encoder.get_current_feat() is None
    model.pre_encoder.set_masking_enabled(apply_mask=False)
    assert largest_difference(model, tmp_path / "x.onnx", *ragged(3, 401, 80)) < LIMIT
