"""Files between NeMo and here: each opens what the other wrote, and computes the same.

Runs where NeMo can be imported, 3.0.0 or 2.6.0 (`pytest -m nemo tests/parity/test_nemo_file_against_nemo.py` there).
"""

import importlib
import importlib.util
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from core.targets import TARGETS
from models import ssl_models
from tools.conversion.encoder_file import save_encoder

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif(importlib.util.find_spec("nemo") is None, reason="needs the real NeMo 3.0.0 to be installed"),
]
NAMES = ["EncDecMaskedTokenPredModel", "EncDecDenoiseMaskedTokenPredModel"]
VARIANTS = {  # of the shipped config
    "nest": {},
    "two books": {"num_books": 2, "decoder.num_decoders": 2, "quantizer.num_books": 2, "loss.num_decoders": 2},
    "local attention": {"encoder.self_attention_model": "rel_pos_local_attn", "encoder.att_context_size": [8, 8]},
    "striding": {"encoder.subsampling": "striding", "encoder.conv_norm_type": "layer_norm"},
    "xlarge": {"encoder.use_bias": False, "encoder.xscaling": False},
    "own options": {"masking.min_masks": 2, "masking.detach": False},
}


def nemos(name: str) -> type:
    return getattr(importlib.import_module("nemo.collections.asr.models.ssl_models"), name)


@torch.no_grad()
def outputs(model: torch.nn.Module, name: str) -> list[Tensor]:
    """log_probs on real steps, lengths and tokens for a ragged batch; nothing masked."""
    model.eval()
    speech = torch.randn(3, 24000, generator=torch.Generator().manual_seed(0)) * 0.1
    lengths = torch.tensor([24000, 17000, 9000])
    signals = {"input_signal": speech, "input_signal_length": lengths}
    if "Denoise" in name:
        signals |= {"noisy_input_signal": 0.9 * speech, "noisy_input_signal_length": lengths}
        signals |= {"noise_signal": 0.1 * speech, "noise_signal_length": lengths}
    log_probs, steps, _, tokens = model(**signals, apply_mask=False)
    real = torch.arange(log_probs.shape[1]) < steps[:, None]  # (B, S)
    return [log_probs[real], steps, tokens[:, : real.shape[1]][real]]


def assert_same(first: torch.nn.Module, second: torch.nn.Module, name: str) -> None:
    """Equal weights, and outputs to 1e-6."""
    torch.testing.assert_close(dict(first.state_dict()), dict(second.state_dict()), rtol=0, atol=0)
    for one, other in zip(outputs(first, name), outputs(second, name), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def nemo_config(small_config: Callable[..., DictConfig], **changes) -> DictConfig:
    """A config that NeMo builds: no options of ours, no data."""
    cfg = small_config(**changes, train_ds=None, validation_ds=None)
    for section, key in (("masking", "min_masks"), ("masking", "detach"), ("", "restore_from")):
        del (cfg[section] if section else cfg)[key]
    return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_nemo_restores_our_file_and_computes_the_same(name, variant, small_config, tmp_path):
    ours = getattr(ssl_models, name)(small_config(**VARIANTS[variant]))
    ours.save_to(tmp_path / "x.nemo")
    theirs = nemos("EncDecMaskedTokenPredModel").restore_from(str(tmp_path / "x.nemo"), map_location="cpu")
    assert type(theirs) is nemos(name)
    assert_same(theirs, ours, name)
    assert [p.requires_grad for p in theirs.parameters()] == [p.requires_grad for p in ours.parameters()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["w:", "w:gz"])
def test_we_restore_nemos_file_and_compute_the_same(name, mode, small_config, tmp_path):
    """Archives of early NeMo were compressed."""
    theirs = nemos(name)(nemo_config(small_config))
    theirs.save_to(str(tmp_path / "x.nemo"))
    path = tmp_path / "x.nemo"
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "x", filter="data")
    path.unlink()
    with tarfile.open(path, mode) as archive:
        archive.add(tmp_path / "x", arcname=".")
    ours = ssl_models.EncDecMaskedTokenPredModel.restore_from(path, map_location="cpu")
    assert type(ours) is getattr(ssl_models, name)
    assert_same(theirs, ours, name)
    assert {n: m.training for n, m in ours.named_children()} == {n: m.training for n, m in theirs.named_children()}


@pytest.mark.parametrize("position", ["pre_conv", "post_conv"])
def test_a_model_goes_there_and_back(position, small_config, tmp_path):
    ours = ssl_models.EncDecMaskedTokenPredModel(small_config(mask_position=position))
    ours.save_to(tmp_path / "a.nemo")
    theirs = nemos("EncDecMaskedTokenPredModel").restore_from(str(tmp_path / "a.nemo"), map_location="cpu")
    theirs.save_to(str(tmp_path / "b.nemo"))
    again = ssl_models.EncDecMaskedTokenPredModel.restore_from(tmp_path / "b.nemo", map_location="cpu")
    torch.testing.assert_close(ours.state_dict(), again.state_dict(), rtol=0, atol=0)
    assert again.mask_processor.block_size == ours.mask_processor.block_size
    assert again.quantizer.combine_time_steps == ours.quantizer.combine_time_steps


def test_lightning_checkpoints_go_both_ways(small_config, tmp_path):
    """Ours hold the config as plain data, which runs no code; NeMo wants it handed over as omegaconf's."""
    name = NAMES[1]
    theirs = nemos(name)(nemo_config(small_config))
    lightning_checkpoint(theirs, tmp_path / "theirs.ckpt")
    ours = getattr(ssl_models, name).load_from_checkpoint(tmp_path / "theirs.ckpt")
    assert_same(theirs, ours, name)
    lightning_checkpoint(ours, tmp_path / "ours.ckpt")
    config = torch.load(tmp_path / "ours.ckpt", weights_only=True)["hyper_parameters"]["cfg"]
    again = nemos(name).load_from_checkpoint(str(tmp_path / "ours.ckpt"), cfg=OmegaConf.create(config))
    assert_same(again, ours, name)


def lightning_checkpoint(model: torch.nn.Module, path: Path) -> None:
    from lightning.pytorch import Trainer

    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    model._trainer = trainer
    trainer.save_checkpoint(path, weights_only=True)


# an ASR model that starts from a pretrained NEST


def ctc_model(config: DictConfig) -> torch.nn.Module:
    """NeMo's CTC model with characters, with the preprocessor and encoder of a NEST config."""
    from nemo.collections.asr.models import EncDecCTCModel

    vocabulary = list("abc ")
    decoder = {"_target_": "nemo.collections.asr.modules.ConvASRDecoder", "feat_in": config.encoder.d_model}
    sections = {key: config[key] for key in ("sample_rate", "preprocessor", "encoder")}
    decoder |= {"num_classes": len(vocabulary), "vocabulary": vocabulary}
    return EncDecCTCModel(OmegaConf.create({**sections, "decoder": decoder, "labels": vocabulary}))


@pytest.mark.parametrize(
    ("form", "position"), [("whole", "pre_conv"), ("encoder", "pre_conv"), ("encoder", "post_conv")]
)
def test_an_asr_model_of_nemo_starts_from_our_encoder(form, position, small_config, tmp_path):
    ours = ssl_models.EncDecDenoiseMaskedTokenPredModel(small_config(mask_position=position))
    {"whole": lambda model, path: model.save_to(path), "encoder": save_encoder}[form](ours, tmp_path / "x.nemo")
    asr = ctc_model(nemo_config(small_config))
    before = {name: t.clone() for name, t in asr.state_dict().items()}
    part = {"path": str(tmp_path / "x.nemo"), "include": ["encoder"]}
    asr.maybe_init_from_pretrained_checkpoint(OmegaConf.create({"init_from_nemo_model": {"nest": part}}))
    if position == "post_conv":
        ours.encoder.pre_encode = ours.encoder.pre_encode.pre_encode
    torch.testing.assert_close(dict(asr.encoder.state_dict()), dict(ours.encoder.state_dict()), rtol=0, atol=0)
    assert torch.equal(asr.decoder.decoder_layers[0].weight, before["decoder.decoder_layers.0.weight"])
    assert not torch.equal(asr.encoder.pre_encode.out.weight, before["encoder.pre_encode.out.weight"])


def test_we_start_from_an_asr_model_of_nemo(small_config, tmp_path):
    """Its class is not here; its encoder is."""
    asr = ctc_model(nemo_config(small_config))
    asr.save_to(str(tmp_path / "ctc.nemo"))
    ours = ssl_models.EncDecDenoiseMaskedTokenPredModel(small_config())
    with pytest.raises(ValueError, match=r"holds a nemo\.collections\.asr\.models\.ctc_models\.EncDecCTCModel"):
        ssl_models.EncDecDenoiseMaskedTokenPredModel.restore_from(tmp_path / "ctc.nemo")
    part = {"path": str(tmp_path / "ctc.nemo"), "include": ["encoder"]}
    ours.maybe_init_from_pretrained_checkpoint({"init_from_nemo_model": {"asr": part}})
    torch.testing.assert_close(dict(asr.encoder.state_dict()), dict(ours.encoder.state_dict()), rtol=0, atol=0)


def test_every_class_path_that_we_write_is_nemos():
    for builder in set(TARGETS.values()):
        path = next(path for path, b in TARGETS.items() if b is builder and path.startswith("nemo."))
        package, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(package), name), path
