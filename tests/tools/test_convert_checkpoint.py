"""Models from one format to another, through the program: what it writes, checks, says and refuses."""

import importlib.util
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from core.connectors import initial_weights
from core.connectors.initial_weights import read_weights
from core.connectors.nemo_file import write_nemo
from models.ssl_models import EncDecDenoiseMaskedTokenPredModel, EncDecMaskedTokenPredModel
from tools import convert_checkpoint
from tools.conversion.formats import FORMATS, kind_of
from tools.convert_checkpoint import main, placed
from utils.checkpoint_files.checkpoint_file import load_checkpoint, save_checkpoint
from utils.training.ema import EMA

ROOT = Path(__file__).resolve().parents[2]
WHOLE = (".nemo", ".ckpt", ".safetensors")


@pytest.fixture(scope="module")
def model(small_config) -> EncDecDenoiseMaskedTokenPredModel:
    torch.manual_seed(0)
    return EncDecDenoiseMaskedTokenPredModel(small_config(**{"train_ds.manifest_filepath": None})).eval()


@pytest.fixture(scope="module")
def nemo(model, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("converted") / "nest.nemo"
    model.save_to(path)
    return str(path)


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def refused(capsys, *arguments: object) -> str:
    """The one line that the program ends with."""
    with pytest.raises(SystemExit) as stopped, convert_checkpoint.one_line_errors(also=convert_checkpoint.MISTAKES):
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


# there and back


def test_a_model_through_every_format_is_bit_equal(model, nemo, tmp_path, capsys):
    source = nemo
    for number, suffix in enumerate((".ckpt", ".safetensors", ".nemo", ".safetensors", ".ckpt")):
        target = str(tmp_path / f"{number}{suffix}")
        main([source, target])
        weights = read_weights(target)
        assert same(weights.state_dict, model.state_dict())
        assert weights.config.target.endswith("EncDecDenoiseMaskedTokenPredModel")
        assert weights.config.encoder == OmegaConf.create(OmegaConf.to_container(model.cfg.encoder))
        source = target
    assert capsys.readouterr().out.count("log-probabilities: 0.0e+00") == 5


def test_a_checkpoint_loads_as_lightning_loads_it(model, nemo, tmp_path):
    main([nemo, str(tmp_path / "x.ckpt")])
    loaded = EncDecDenoiseMaskedTokenPredModel.load_from_checkpoint(tmp_path / "x.ckpt")
    assert same(loaded.state_dict(), model.state_dict())
    torch.load(tmp_path / "x.ckpt", weights_only=True)


def test_the_class_of_the_model_is_kept(small_config, tmp_path):
    EncDecMaskedTokenPredModel(small_config(**{"train_ds.manifest_filepath": None})).save_to(tmp_path / "a.nemo")
    main([str(tmp_path / "a.nemo"), str(tmp_path / "a.ckpt")])
    assert read_weights(tmp_path / "a.ckpt").config.target.endswith(".EncDecMaskedTokenPredModel")


def test_models_masked_after_the_subsampling_pass_too(small_config, tmp_path):
    config = small_config(**{"train_ds.manifest_filepath": None, "mask_position": "post_conv"})
    EncDecDenoiseMaskedTokenPredModel(config).save_to(tmp_path / "a.nemo")
    main([str(tmp_path / "a.nemo"), str(tmp_path / "a.safetensors")])
    main([str(tmp_path / "a.safetensors"), str(tmp_path / "encoder.ckpt"), "--encoder-only"])
    assert "encoder.pre_encode.conv.0.weight" in read_weights(tmp_path / "encoder.ckpt").state_dict
    main([str(tmp_path / "encoder.ckpt"), str(tmp_path / "b.nemo"), "--base", str(tmp_path / "a.nemo")])
    first, second = (read_weights(tmp_path / name).state_dict for name in ("a.nemo", "b.nemo"))
    assert same(first, second)


# parts


@pytest.mark.parametrize("suffix", WHOLE)
def test_an_encoder_alone_goes_from_any_file_to_any(model, nemo, tmp_path, suffix):
    alone = str(tmp_path / f"encoder{suffix}")
    main([nemo, alone, "--encoder-only"])
    main([alone, str(tmp_path / "again.ckpt")])
    for path in (alone, tmp_path / "again.ckpt"):
        state = read_weights(path).state_dict
        assert {name.partition(".")[0] for name in state} == {"encoder", "preprocessor"}
        assert all(torch.equal(x, model.state_dict()[name]) for name, x in state.items())


def test_a_base_gets_the_encoder_and_keeps_the_rest(model, nemo, small_config, tmp_path):
    torch.manual_seed(1)
    base = EncDecDenoiseMaskedTokenPredModel(small_config(**{"train_ds.manifest_filepath": None}))
    base.save_to(tmp_path / "base.nemo")
    main([nemo, str(tmp_path / "encoder.safetensors"), "--encoder-only"])
    main([str(tmp_path / "encoder.safetensors"), str(tmp_path / "new.nemo"), "--base", str(tmp_path / "base.nemo")])
    new, encoder, rest = read_weights(tmp_path / "new.nemo").state_dict, model.state_dict(), base.state_dict()
    assert all(torch.equal(x, (encoder if name.startswith("encoder.") else rest)[name]) for name, x in new.items())


def test_a_base_of_another_size_is_refused(nemo, small_config, tmp_path, capsys):
    wider = small_config(**{"train_ds.manifest_filepath": None, "encoder.d_model": 32, "decoder.feat_in": 32})
    EncDecDenoiseMaskedTokenPredModel(wider).save_to(tmp_path / "base.nemo")
    assert "doesn't fit" in refused(capsys, nemo, tmp_path / "x.nemo", "--base", tmp_path / "base.nemo")


def test_averaged_weights_are_taken_when_asked_for_and_mentioned_else(model, nemo, tmp_path, log, monkeypatch):
    main([nemo, str(tmp_path / "run.ckpt")])
    checkpoint = load_checkpoint(tmp_path / "run.ckpt")
    averages = {name: x + 1 for name, x in model.named_parameters() if x.requires_grad}
    checkpoint["callbacks"] = {EMA.__qualname__: {"decay": 0.9, "every_n_steps": 1, "weights": averages}}
    save_checkpoint(checkpoint, tmp_path / "run.ckpt")
    name = "encoder.layers.0.norm_out.bias"
    reads = []

    def count(path, **options):
        reads.append(path)
        return load_checkpoint(path, **options)

    monkeypatch.setattr(initial_weights, "load_checkpoint", count)
    for choice, difference in (("trained", 0.0), ("ema", 1.0)):
        main([str(tmp_path / "run.ckpt"), str(tmp_path / f"{choice}.nemo"), "--weights", choice])
        written = read_weights(tmp_path / f"{choice}.nemo").state_dict
        assert torch.equal(written[name], model.state_dict()[name] + difference)
        assert ("--weights ema" in log.text) == (choice == "trained")
        log.clear()
    assert len(reads) == 2  # a file of gigabytes is read once


def test_averages_that_are_not_there_are_refused(nemo, tmp_path, capsys):
    main([nemo, str(tmp_path / "run.ckpt")])
    assert "no averaged weights" in refused(capsys, tmp_path / "run.ckpt", tmp_path / "x.nemo", "--weights", "ema")


def test_of_a_recogniser_the_encoder_is_read_and_the_rest_is_named(model, tmp_path, log):
    config = {"target": "nemo.collections.asr.models.EncDecCTCModel", "decoder": {"num_classes": 28}}
    config |= {name: OmegaConf.to_container(model.cfg[name]) for name in ("preprocessor", "encoder")}
    kept = {name: x for name, x in model.state_dict().items() if name.startswith(("encoder.", "preprocessor."))}
    state = kept | {"decoder.decoder_layers.0.weight": torch.zeros(29, 16, 1)}
    write_nemo(tmp_path / "asr.nemo", OmegaConf.create(config), state)
    main([str(tmp_path / "asr.nemo"), str(tmp_path / "encoder.nemo")])
    assert "is no NEST model: its decoder left out" in log.text
    assert same(read_weights(tmp_path / "encoder.nemo").state_dict, kept)


# other libraries' formats


def test_a_folder_for_transformers_and_back_into_the_model(model, nemo, tmp_path, capsys):
    pytest.importorskip("transformers")
    main([nemo, f"{tmp_path}/parakeet-0.1b/"])
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= {
        path.name for path in (tmp_path / "parakeet-0.1b").iterdir()
    }
    main([f"{tmp_path}/parakeet-0.1b", str(tmp_path / "back.nemo"), "--base", nemo])
    assert same(read_weights(tmp_path / "back.nemo").state_dict, model.state_dict())
    told = capsys.readouterr().out
    assert told.count("encoder states (eager)") == told.count("encoder states (sdpa)") == 2  # written, then read


def test_a_folder_is_replaced_file_by_file(nemo, tmp_path, capsys):
    pytest.importorskip("transformers")
    (tmp_path / "parakeet").mkdir()
    (tmp_path / "parakeet" / "mine.txt").write_text("mine")
    assert "is there already" in refused(capsys, nemo, tmp_path / "parakeet")
    main([nemo, str(tmp_path / "parakeet"), "--force"])
    assert (tmp_path / "parakeet" / "mine.txt").exists() and (tmp_path / "parakeet" / "config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--with-preprocessor"]])
def test_an_onnx_file_from_features_or_from_the_waveform(nemo, tmp_path, capsys, options):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    main([nemo, str(tmp_path / "x.onnx"), *options])
    assert "x.onnx: encoder states: " in capsys.readouterr().out
    assert [path.name for path in tmp_path.glob("x*")] == ["x.onnx"]


# what is checked


def test_a_writer_that_changes_the_model_leaves_nothing_behind(nemo, tmp_path, capsys, monkeypatch):
    write_rightly = FORMATS[".nemo"].write

    def write(model, path):
        changed = deepcopy(model)
        changed.encoder.layers[1].norm_out.bias.data += 0.01
        write_rightly(changed, path)

    monkeypatch.setitem(FORMATS, ".nemo", replace(FORMATS[".nemo"], write=write))
    message = refused(capsys, nemo, tmp_path / "x.nemo")
    assert "another model" in message and "encoder states: 1.0e-02 (at most 0e+00)" in message
    assert not list(tmp_path.iterdir())


def test_what_was_there_stays_when_the_check_fails(nemo, tmp_path, capsys, monkeypatch):
    (tmp_path / "x.ckpt").write_text("old")
    broken = replace(FORMATS[".ckpt"], run=lambda path, speech: (_ for _ in ()).throw(ValueError("broken")))
    monkeypatch.setitem(FORMATS, ".ckpt", broken)
    assert "broken" in refused(capsys, nemo, tmp_path / "x.ckpt", "--force")
    assert (tmp_path / "x.ckpt").read_text() == "old"


def test_weights_beside_an_older_onnx_file_go_with_it(tmp_path):
    old, new = tmp_path / "x.onnx.0123abcd.data", "x.onnx.4567cdef.data"
    for path in (tmp_path / "x.onnx", old, tmp_path / "y.onnx.0123abcd.data"):
        path.write_text("old")
    with pytest.raises(ValueError), placed(tmp_path / "x.onnx", as_folder=False) as unfinished:
        unfinished.write_text("half")
        raise ValueError
    assert old.exists()
    with placed(tmp_path / "x.onnx", as_folder=False) as unfinished:
        unfinished.write_text("new")
        (unfinished.parent / new).write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"x.onnx", new, "y.onnx.0123abcd.data"}


def test_what_a_killed_conversion_left_is_gone_after_the_next(tmp_path):
    left, others = tmp_path / ".x.nemo.0123abcd.unfinished", tmp_path / ".y.nemo.0123abcd.unfinished"
    for folder in (left, others):
        folder.mkdir()
        (folder / "half").write_text("half")
    with placed(tmp_path / "x.nemo", as_folder=False) as unfinished:
        unfinished.write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"x.nemo", others.name}


def test_a_folder_that_cannot_be_is_named(nemo, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert f"error: nothing can be written to {tmp_path}/file: " in refused(capsys, nemo, tmp_path / "file" / "x.ckpt")


def test_recordings_are_checked_with(nemo, tmp_path, capsys):
    noise = 0.1 * torch.randn(2 * 8000).numpy()
    soundfile.write(tmp_path / "a.wav", noise, 8000)
    main([nemo, str(tmp_path / "x.ckpt"), "--audio", str(tmp_path / "a.wav")])
    assert "utterances of 2.00, 1.00 s, recorded" in capsys.readouterr().out


# what is refused


def test_nothing_is_overwritten_unasked(nemo, tmp_path, capsys):
    (tmp_path / "x.ckpt").write_text("old")
    assert "is there already" in refused(capsys, nemo, tmp_path / "x.ckpt")
    assert (tmp_path / "x.ckpt").read_text() == "old"
    main([nemo, str(tmp_path / "x.ckpt"), "--force"])
    assert read_weights(tmp_path / "x.ckpt").state_dict


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["IN", "x.pt"], "one of .ckpt, .nemo, .safetensors, .onnx; for a Hugging Face folder of this name write"),
        (["missing.nemo", "x.ckpt"], "missing.nemo doesn't exist"),
        (["IN", "x.ckpt", "--with-preprocessor"], "--with-preprocessor is for .onnx files"),
        (["IN", "x.ckpt", "--weights", "ema"], "--weights ema is for .ckpt files"),
        (["IN", "x.ckpt", "--base", "."], "holds no whole model"),
        (["IN", "x.ckpt", "--audio", "none.wav"], "none.wav"),
        ([".", "x.ckpt"], "config.json is missing, and every Hugging Face folder has it; of a run give a .ckpt"),
    ],
)
def test_a_mistake_ends_in_one_line(nemo, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *(nemo if word == "IN" else word for word in arguments))
    assert not list(tmp_path.iterdir())


def test_onnx_files_are_not_read(tmp_path, capsys):
    (tmp_path / "x.onnx").write_bytes(b"")
    assert "x.onnx: .onnx files are written only" in refused(capsys, tmp_path / "x.onnx", tmp_path / "x.nemo")


def test_weights_without_a_config_are_refused(model, tmp_path, capsys):
    torch.save(model.state_dict(), tmp_path / "x.ckpt")
    assert "says nothing of the model's config" in refused(capsys, tmp_path / "x.ckpt", tmp_path / "x.nemo")


@pytest.mark.parametrize(("target", "package"), [("folder/", "transformers"), ("x.onnx", "onnx")])
def test_missing_packages_are_named_before_any_work(nemo, tmp_path, capsys, monkeypatch, target, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(convert_checkpoint, "read", pytest.fail)
    message = refused(capsys, nemo, tmp_path / target)
    assert package in message and "pip install -r requirements-convert.txt" in message


@pytest.mark.parametrize(
    ("name", "kind"), [("a/b.nemo", ".nemo"), ("folder", "folder"), ("folder-0.6b/", "folder"), ("x.ckpt", ".ckpt")]
)
def test_names_tell_formats(name, kind):
    assert kind_of(name) == kind


@pytest.mark.slow
def test_it_runs_as_a_program(nemo, tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "convert_checkpoint.py"), nemo, str(tmp_path / "x.ckpt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "encoder states: 0.0e+00" in done.stdout
