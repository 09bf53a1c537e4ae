"""Encoders in transformers and here: the same states, the same features, and bit-equal weights on the way back."""

import json
import os
import shutil

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from models.ssl_models import EncDecDenoiseMaskedTokenPredModel
from tools.conversion import hugging_face
from tools.conversion.formats import FOLDER, FORMATS
from tools.conversion.hugging_face import read_folder, renamed, run_folder, write_folder
from tools.conversion.parakeet_config import in_seconds
from tools.conversion.self_check import FEATURES, check, load, make_speech, synthesise
from tools.conversion.speech_encoder import encoder_of

transformers = pytest.importorskip("transformers")
pytest.importorskip("transformers.models.parakeet")

TOLERANCES = FORMATS[FOLDER].tolerances
HAS_NO_BIAS = hasattr(transformers.ParakeetEncoderConfig(), "convolution_bias")  # since 5.0
SIZES = [
    {},
    {"encoder.xscaling": False, "encoder.use_bias": not HAS_NO_BIAS, "encoder.conv_kernel_size": 5},  # as xxlarge
    {"encoder.subsampling_factor": 4, "loss.combine_time_steps": 4, "quantizer.combine_time_steps": 4},
    {"encoder.ff_expansion_factor": 2, "encoder.n_heads": 4, "encoder.subsampling_conv_channels": -1},
    {"preprocessor.features": 128, "encoder.feat_in": 128, "masking.feat_in": 128, "quantizer.feat_in": 128},
    {"mask_position": "post_conv"},
]


@pytest.fixture
def nest(small_config):
    """`nest(**changes)`: a small model none of whose weights is at the value it starts with."""

    def make(**changes) -> EncDecDenoiseMaskedTokenPredModel:
        torch.manual_seed(0)
        model = EncDecDenoiseMaskedTokenPredModel(small_config(**{"train_ds.manifest_filepath": None} | changes))
        for name, x in model.encoder.state_dict().items():
            if x.is_floating_point():
                x += 0.1 * (torch.rand_like(x) if "running" in name else torch.randn_like(x))
        return model.eval()

    return make


@pytest.fixture
def folder(nest, tmp_path):
    """A folder that was written for transformers, and the model in it."""
    write_folder(model := nest(), tmp_path / "parakeet")
    return tmp_path / "parakeet", model


def change_json(path, change):
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_both_attentions_give_our_states_on_a_ragged_batch(nest, tmp_path):
    for number, changes in enumerate(SIZES):
        model, path = nest(**changes), tmp_path / str(number)
        write_folder(model, path)
        speech = make_speech(model, synthesise(16000))
        found = check(model, run_folder(path, speech), TOLERANCES, str(changes), speech)
        labels = [difference.label.replace(", one by one", "") for difference in found]  # transformers 4.57, 5.0
        assert labels == ["features", "encoder states (eager)", "encoder states (sdpa)"]


def test_features_of_real_speech_are_the_same(nest, tmp_path, shared_data):
    lines = (shared_data / "manifests" / "speech_val.json").read_text().splitlines()[:6]
    files = [shared_data / "manifests" / json.loads(line)["audio_filepath"] for line in lines]
    write_folder(model := nest(), tmp_path)
    speech = make_speech(model, load(files, 16000))
    found = check(model, run_folder(tmp_path, speech), TOLERANCES, "folder", speech)
    assert max(d.largest for d in found if d.label == FEATURES) < 1e-6


@pytest.mark.parametrize("changes", SIZES)
def test_back_again_weights_and_config_are_the_same(nest, tmp_path, changes):
    model = encoder_of(nest(**changes))
    write_folder(model, tmp_path)
    back = read_folder(tmp_path)
    theirs, ours = back.state_dict(), model.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    for section in ("encoder", "preprocessor"):
        written, read = model.cfg[section], back.cfg[section]
        lost = {"dither", "pad_to", "att_context_size", "subsampling_conv_channels", "max_duration", "_target_"}
        assert {key: value for key, value in written.items() if key not in lost and read.get(key, value) != value} == {}
    assert back.cfg.encoder._target_ == "nemo.collections.asr.modules.ConformerEncoder"


@pytest.mark.parametrize("pair", [("_q.", "_k."), ("bias_u", "bias_v"), ("linear_v", "linear_out")])
def test_two_names_changed_round_are_noticed(nest, tmp_path, monkeypatch, pair):
    first, second = (next(ours for ours in hugging_face.WEIGHT_NAMES if part in ours) for part in pair)
    table = dict(hugging_face.WEIGHT_NAMES)
    table[first], table[second] = table[second], table[first]
    monkeypatch.setattr(hugging_face, "WEIGHT_NAMES", table)
    write_folder(model := nest(), tmp_path)
    speech = make_speech(model, synthesise(16000))
    with pytest.raises(ValueError, match="another model"):
        check(model, run_folder(tmp_path, speech), TOLERANCES, "folder", speech)


def test_a_wrong_scale_is_noticed(folder):
    path, model = folder
    change_json(path / "config.json", {"scale_input": False})
    speech = make_speech(model, synthesise(16000))
    with pytest.raises(ValueError, match=r"encoder states \(eager"):
        check(model, run_folder(path, speech), TOLERANCES, "folder", speech)


def test_names_go_there_and_back():
    there = hugging_face.WEIGHT_NAMES
    back = {theirs: ours for ours, theirs in there.items()}
    name = "layers.0.self_attn.linear_pos.weight"
    assert renamed(name, there) == "layers.0.self_attn.relative_k_proj.weight"
    assert renamed(renamed(name, there), back) == name


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder.subsampling": "stacking"},
        {"encoder.subsampling": "striding"},
        {"encoder.causal_downsampling": True},
        {"encoder.self_attention_model": "rel_pos_local_attn", "encoder.att_context_size": [8, 8]},
        {"encoder.self_attention_model": "abs_pos"},
        {"encoder.att_context_size": [16, 0], "encoder.att_context_style": "chunked_limited"},
        {"encoder.conv_norm_type": "layer_norm"},
        {"encoder.conv_context_size": "causal"},
        {"encoder.untie_biases": False},
        {"encoder.feat_out": 12, "decoder.feat_in": 12},
        {"encoder.reduction": "pooling", "encoder.reduction_factor": 2, "encoder.reduction_position": 1},
        {"encoder.subsampling_factor": 1, "loss.combine_time_steps": 1, "quantizer.combine_time_steps": 1},
        {"preprocessor.normalize": "all_features"},
        {"preprocessor.window": "hamming"},
        {"preprocessor.highfreq": 7000},
        {"preprocessor.mag_power": 1.0},
        {"preprocessor.pad_value": -1.0},
        {"preprocessor.exact_pad": True},
        {"preprocessor.log_zero_guard_value": "eps"},
    ],
)
def test_what_parakeet_can_not_be_is_refused_by_name(nest, tmp_path, changes):
    option = next(iter(changes)).replace("att_context_style", "att_context_size")
    with pytest.raises(ValueError, match=f"model.{option}="):
        write_folder(nest(**changes), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_encoder_of_a_recogniser_is_read(folder, tmp_path):
    path, model = folder
    config = transformers.ParakeetEncoderConfig.from_pretrained(path)
    recogniser = transformers.ParakeetForCTC(
        transformers.ParakeetCTCConfig(encoder_config=config.to_dict(), vocab_size=20, pad_token_id=19)
    )
    recogniser.encoder.load_state_dict(transformers.ParakeetEncoder.from_pretrained(path).state_dict())
    recogniser.save_pretrained(tmp_path / "ctc")
    shutil.copy(path / "preprocessor_config.json", tmp_path / "ctc")
    read, ours = read_folder(tmp_path / "ctc").encoder.state_dict(), model.encoder.state_dict()
    assert all(torch.equal(read[name], x) for name, x in ours.items())
    speech = make_speech(model, synthesise(16000))
    check(model, run_folder(tmp_path / "ctc", speech), TOLERANCES, "ctc", speech)


def test_weights_in_several_shards_are_read(folder, tmp_path):
    path, model = folder
    transformers.ParakeetEncoder.from_pretrained(path).save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    shutil.copy(path / "preprocessor_config.json", tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    read = read_folder(tmp_path / "shards").encoder.state_dict()
    assert all(torch.equal(read[name], x) for name, x in model.encoder.state_dict().items())


def test_features_described_inside_a_processor_are_read(folder):
    path, _ = folder
    content = json.loads((path / "preprocessor_config.json").read_text())
    (path / "preprocessor_config.json").unlink()
    (path / "processor_config.json").write_text(json.dumps({"feature_extractor": content}))
    assert read_folder(path).cfg.preprocessor.features == 80


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"model_type": "wav2vec2"}, "model_type='wav2vec2'"),
        ("config.json", {"hidden_act": "relu"}, "hidden_act='relu'"),
        ("config.json", {"subsampling_conv_kernel_size": 5}, "subsampling_conv_kernel_size=5"),
        ("config.json", {"attention_bias": False}, "attention_bias=False and convolution_bias=True"),
        ("config.json", {"intermediate_size": 33}, "intermediate_size=33"),
        ("config.json", {"hidden_size": "big"}, "hidden_size='big' must be a whole number from 1 to"),
        ("config.json", {"hidden_size": -1}, "hidden_size=-1 must be a whole number"),
        (
            "config.json",
            {"hidden_size": 32, "intermediate_size": 64},
            "the weights don't fit the config: .* another shape",
        ),
        ("config.json", {"num_hidden_layers": 3}, r"the weights don't fit the config: missing: encoder.layers\.2\."),
        ("config.json", {"num_hidden_layers": 1000}, "a model that is far larger than its weights"),
        ("config.json", {"num_hidden_layers": 200000}, "num_hidden_layers=200000 must be"),  # hours to build
        ("config.json", {"max_position_embeddings": 10**9}, "max_position_embeddings=1000000000 must be"),
        ("config.json", {"dropout": float("nan")}, "dropout=nan must be a number from 0 to 1"),
        ("config.json", {"scale_input": "x"}, "scale_input='x' must be true or false"),
        ("config.json", {"encoder_config": "x"}, "encoder_config must be a mapping, not a str"),
        ("preprocessor_config.json", {"feature_extractor_type": "WhisperFeatureExtractor"}, "WhisperFeatureExtractor"),
        ("preprocessor_config.json", {"padding_value": 1.0}, "padding_value=1.0"),
        ("preprocessor_config.json", {"n_fft": 10**9}, "n_fft=1000000000 must be a whole number"),
        ("preprocessor_config.json", {"sampling_rate": "x"}, "sampling_rate='x' must be a whole number"),
        ("preprocessor_config.json", {"win_length": 600}, "win_length=600 is more than n_fft=512"),
    ],
)
def test_a_folder_of_something_else_is_refused_by_name(folder, file, change, message):
    path, _ = folder
    change_json(path / file, change)
    with pytest.raises(ValueError, match=message) as raised:
        read_folder(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["[" * 100_000 + "]" * 100_000, "[1]", "{", ""])
def test_a_config_that_is_no_mapping_is_one_line(folder, content):
    path, _ = folder
    (path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json (is no JSON|must hold a mapping)"):
        read_folder(path)


@pytest.mark.parametrize(
    "weight_map",
    [{}, [1], {"a": 1}, {"a": ["b"]}, {"a": "../model.safetensors"}, {"a": "/model.safetensors"}, {"a": "model.ckpt"}],
)
def test_an_index_that_names_no_files_beside_it_is_refused(folder, weight_map):
    path, _ = folder
    (path / "model.safetensors").rename(path.parent / "model.safetensors")
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match="weight_map must give each tensor the name of"):
        read_folder(path)


def test_options_that_do_not_concern_the_encoder_reach_nobody(folder):
    """transformers would choke on the first, and build a billion names for the second."""
    path, model = folder
    change_json(path / "config.json", {"layer_types": [1], "num_labels": 10**9, "quantization_config": {}})
    change_json(path / "preprocessor_config.json", {"padding_side": "up", "return_attention_mask": False})
    speech = make_speech(model, synthesise(16000))
    check(read_folder(path), run_folder(path, speech), TOLERANCES, "folder", speech)


def test_weights_that_are_whole_numbers_are_refused_by_name(folder):
    path, _ = folder
    state = load_file(path / "model.safetensors")
    state["layers.1.norm_out.bias"] = state["layers.1.norm_out.bias"].int()
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"layers\.1\.norm_out\.bias torch\.int32 for torch\.float32"):
        read_folder(path)


@pytest.mark.skipif(os.name == "nt", reason="files have no modes there")
def test_who_may_read_the_config_may_read_the_weights(folder):
    path, _ = folder
    (path / "other").touch()
    assert len({file.stat().st_mode for file in path.iterdir()}) == 1


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, file):
    path, _ = folder
    (path / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        read_folder(path)


def test_a_pickle_is_not_read(folder):
    path, _ = folder
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="no pickles"):
        read_folder(path)


@pytest.mark.parametrize(("samples", "rate"), [(400, 16000), (160, 16000), (1001, 16000), (23, 22050)])
def test_a_window_keeps_its_samples(samples, rate):
    section = OmegaConf.create(in_seconds("size", samples, rate))
    assert (int(section.window_size * rate) if section.window_size else section.n_window_size) == samples
