"""Files of models: which class they become, what the config of a file says, what a run takes from them."""

from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from core.classes import ModelPT
from core.classes.serialization import from_config_dict
from core.connectors.nemo_config import from_nemo, to_nemo
from core.connectors.nemo_file import read_nemo_config, write_nemo
from core.connectors.save_restore import class_for, restore_for_run
from models.model_config import check_model_config
from models.ssl_models import EncDecDenoiseMaskedTokenPredModel, EncDecMaskedTokenPredModel

NEMO = "nemo.collections.asr.models"
CONFIGS = Path(__file__).resolve().parents[3] / "config"


class Finetuned(EncDecDenoiseMaskedTokenPredModel):
    """A user's own, without a path in NeMo."""


@pytest.fixture
def model(small_config) -> EncDecDenoiseMaskedTokenPredModel:
    return EncDecDenoiseMaskedTokenPredModel(small_config())


def assert_same(first: ModelPT, second: ModelPT) -> None:
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


# which class


@pytest.mark.parametrize(
    ("calling", "target", "built"),
    [
        (EncDecMaskedTokenPredModel, f"{NEMO}.ssl_models.EncDecDenoiseMaskedTokenPredModel", None),
        (ModelPT, f"{NEMO}.EncDecMaskedTokenPredModel", EncDecMaskedTokenPredModel),
        (EncDecDenoiseMaskedTokenPredModel, f"{NEMO}.ssl_models.EncDecMaskedTokenPredModel", None),
        (EncDecDenoiseMaskedTokenPredModel, None, None),
        (Finetuned, f"{NEMO}.ssl_models.EncDecDenoiseMaskedTokenPredModel", Finetuned),
        (ModelPT, f"{Finetuned.__module__}.Finetuned", Finetuned),
    ],
)
def test_the_target_decides_among_subclasses_and_else_the_caller(calling, target, built):
    assert class_for(calling, target, "x.nemo") is (built or EncDecDenoiseMaskedTokenPredModel)


@pytest.mark.parametrize("target", [f"{NEMO}.EncDecCTCModelBPE", "os.system", f"{NEMO}.rnnt_models.EncDecRNNTModel"])
def test_a_model_that_is_not_here_is_refused_with_a_way_to_use_its_encoder(target):
    with pytest.raises(ValueError, match=rf"x\.nemo holds a {target}.*include: \[encoder\]"):
        class_for(ModelPT, target, "x.nemo")


# files


def test_a_model_comes_back_as_it_was(model, tmp_path):
    model.save_to(tmp_path / "new" / "x.nemo")
    again = ModelPT.restore_from(str(tmp_path / "new" / "x.nemo"), map_location="cpu")
    assert type(again) is type(model)
    assert_same(model, again)
    assert {n: m.training for n, m in again.named_modules()} == {n: m.training for n, m in model.named_modules()}
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]


def test_the_config_of_a_file_is_in_nemos_words(small_config, tmp_path):
    config = small_config(**{"encoder._target_": "modules.conformer_encoder.ConformerEncoder"})
    EncDecDenoiseMaskedTokenPredModel(config).save_to(tmp_path / "x.nemo")
    saved = read_nemo_config(tmp_path / "x.nemo")
    assert saved.target == f"{NEMO}.ssl_models.EncDecDenoiseMaskedTokenPredModel" and saved.nemo_version == "3.0.0"
    assert saved.encoder._target_.startswith("nemo.collections.asr.modules.")
    assert "min_masks" not in saved.masking and "detach" not in saved.masking and "own_options" not in saved


def test_an_option_that_nemo_has_not_is_kept_and_said(small_config, tmp_path, log):
    model = EncDecDenoiseMaskedTokenPredModel(small_config(**{"masking.min_masks": 2}))
    model.save_to(tmp_path / "x.nemo")
    assert "min_masks" not in read_nemo_config(tmp_path / "x.nemo").masking
    assert "NeMo has no masking.min_masks=2" in log.text
    again = EncDecDenoiseMaskedTokenPredModel.restore_from(tmp_path / "x.nemo", map_location="cpu")
    assert again.cfg.masking.min_masks == again.mask_processor.min_masks == 2


def test_the_config_alone_can_be_had_and_another_given(model, tmp_path):
    model.save_to(tmp_path / "x.nemo")
    config = EncDecDenoiseMaskedTokenPredModel.restore_from(tmp_path / "x.nemo", return_config=True)
    assert isinstance(config, DictConfig) and config.encoder.d_model == 16
    config.encoder.dropout = 0.3
    OmegaConf.save(OmegaConf.create({"model": config}), tmp_path / "other.yaml")
    for override in (
        config,
        OmegaConf.create({"model": config}),
        str(tmp_path / "other.yaml"),
        tmp_path / "other.yaml",
    ):
        again = ModelPT.restore_from(tmp_path / "x.nemo", override, "cpu")
        assert again.cfg.encoder.dropout == 0.3
        assert_same(model, again)


def test_weights_that_do_not_fit_are_refused_and_strict_false_says_what_is_missing(model, tmp_path, log):
    model.save_to(tmp_path / "x.nemo")
    config = ModelPT.restore_from(tmp_path / "x.nemo", return_config=True)
    config.encoder.n_layers = 3
    with pytest.raises(
        ValueError, match=r"x\.nemo: the weights don't fit the config: missing: encoder\.layers\.2"
    ) as raised:
        ModelPT.restore_from(tmp_path / "x.nemo", config)
    assert "\n" not in str(raised.value)
    ModelPT.restore_from(tmp_path / "x.nemo", config, strict=False)
    assert "missing in the file, so as initialized: 40: encoder.layers.2." in log.text and "and 32 more" in log.text
    config.encoder.conv_kernel_size = 5
    with pytest.raises(ValueError, match=r"depthwise_conv\.weight \[16, 1, 9\] for \[16, 1, 5\]"):
        ModelPT.restore_from(tmp_path / "x.nemo", config, strict=False)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"restore_path": "nothing.nemo"}, FileNotFoundError, r"nothing\.nemo doesn't exist"),
        ({"restore_path": "x.nemo", "save_restore_connector": object()}, ValueError, "save_restore_connector must be"),
        ({"restore_path": "x.nemo", "validate_access_integrity": False}, ValueError, "validate_access_integrity=False"),
    ],
)
def test_what_cannot_be_restored_is_refused_in_one_line(options, error, said):
    with pytest.raises(error, match=said):
        ModelPT.restore_from(**options)


def test_a_file_may_say_what_a_config_of_ours_may_not(model, tmp_path, log):
    """As those of NeMo 2.x and of other people's data do; NeMo reads none of it."""
    model.save_to(tmp_path / "x.nemo")
    config = read_nemo_config(tmp_path / "x.nemo")
    config.labels, config.feature_penalty, config.nemo_version = ["a"], 0.1, "2.6.0"
    config.spec_augment.freq_masks = 2
    config.train_ds = {"manifest_filepath": "???", "parser": "en", "tokenizer": {"dir": "x"}}
    write_nemo(tmp_path / "x.nemo", config, model.state_dict())
    again = ModelPT.restore_from(tmp_path / "x.nemo", map_location="cpu")
    assert_same(model, again)
    assert "left out of the config: labels, feature_penalty, spec_augment.freq_masks" in log.text
    assert "train_ds can't be read here, so left out of the config: model.train_ds." in log.text
    assert again.cfg.train_ds is None and again.cfg.validation_ds.batch_size == 8


@pytest.mark.parametrize("key", ["masking", "encoder"])
def test_an_option_that_changes_a_module_and_is_unknown_is_refused(key, model, tmp_path):
    model.save_to(tmp_path / "x.nemo")
    config = read_nemo_config(tmp_path / "x.nemo")
    config[key].depth = 3
    write_nemo(tmp_path / "x.nemo", config, model.state_dict())
    with pytest.raises(ValueError, match=rf"^model\.{key}\.depth is not an option of"):
        ModelPT.restore_from(tmp_path / "x.nemo")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("own_options", 3, r"own_options\.own_options isn't of a section"),
        ("own_options", {"x": {"y": 1}}, r"own_options\.x isn't of a section"),
        ("target", 3, "holds a 3, and not a"),
        ("encoder", 3, "model.encoder is missing"),
        ("encoder._target_", [1], "x.nemo: its config can't be a model's: TypeError"),
        ("encoder.conv_norm_type", 3, "x.nemo: its config can't be a model's: AttributeError"),
        ("train_ds", 3, "x.nemo: its config can't be a model's: TypeError"),
    ],
)
def test_a_config_that_is_no_models_is_refused_in_one_line(key, value, said, model, tmp_path):
    model.save_to(tmp_path / "x.nemo")
    config = read_nemo_config(tmp_path / "x.nemo")
    OmegaConf.update(config, key, value, merge=False)
    write_nemo(tmp_path / "x.nemo", config, model.state_dict())
    with pytest.raises(ValueError, match=said) as told:
        ModelPT.restore_from(tmp_path / "x.nemo")
    assert "\n" not in str(told.value)


SIZES = ["small", "medium", "large", "xlarge", "xxlarge"]


def config_of_size(size: str) -> DictConfig:
    files = (CONFIGS / "nest_fast-conformer.yaml", CONFIGS / "model_size" / f"{size}.yaml")
    cfg = OmegaConf.merge(*map(OmegaConf.load, files))
    return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True)).model


@pytest.mark.parametrize("size", SIZES)
def test_every_size_survives_the_config_of_a_file(size):
    """The encoder is built without memory for its weights."""
    cfg = config_of_size(size)
    again = from_nemo(to_nemo(cfg, "x")[0])
    check_model_config(again)
    with torch.device("meta"):
        first, second = (from_config_dict(config.encoder).state_dict() for config in (cfg, again))
    assert {name: (t.shape, t.dtype) for name, t in first.items()} == {n: (t.shape, t.dtype) for n, t in second.items()}
    assert {key: again[key] for key in cfg if key != "masking"} == {key: cfg[key] for key in cfg if key != "masking"}


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES[:3])
def test_models_of_these_sizes_come_back_from_their_files(size, tmp_path):
    model = EncDecDenoiseMaskedTokenPredModel(config_of_size(size))
    model.save_to(tmp_path / "x.nemo")
    assert_same(model, ModelPT.restore_from(tmp_path / "x.nemo", map_location="cpu"))


def test_a_post_conv_model_says_to_nemo_what_it_quantizes(small_config, tmp_path):
    model = EncDecMaskedTokenPredModel(small_config(mask_position="post_conv"))
    model.save_to(tmp_path / "x.nemo")
    saved = read_nemo_config(tmp_path / "x.nemo")
    assert (saved.quantizer.combine_time_steps, saved.loss.combine_time_steps, saved.masking.block_size) == (1, 8, 40)
    again = EncDecMaskedTokenPredModel.restore_from(tmp_path / "x.nemo", map_location="cpu")
    assert again.mask_processor.block_size == model.mask_processor.block_size == 5
    assert_same(model, again)


def test_a_post_conv_file_of_nemo_is_written_so_that_nemo_divides_it_once(small_config, tmp_path):
    """NeMo 3.0.0 saves the config that it has changed."""
    theirs = {"mask_position": "post_conv", "masking.block_size": 5, "loss.combine_time_steps": 1}
    EncDecMaskedTokenPredModel(small_config(**theirs)).save_to(tmp_path / "x.nemo")
    saved = read_nemo_config(tmp_path / "x.nemo")
    assert (saved.masking.block_size, saved.loss.combine_time_steps) == (40, 8)


def test_a_lightning_checkpoint_becomes_a_model(model, tmp_path):
    cfg = OmegaConf.to_container(model.cfg)
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": {"cfg": cfg}}, tmp_path / "x.ckpt")
    assert_same(model, EncDecDenoiseMaskedTokenPredModel.load_from_checkpoint(tmp_path / "x.ckpt", "cpu"))
    torch.save(model.state_dict(), tmp_path / "bare.ckpt")
    with pytest.raises(ValueError, match=r"bare\.ckpt has no config of a model: init_from_"):
        EncDecDenoiseMaskedTokenPredModel.load_from_checkpoint(tmp_path / "bare.ckpt")
    OmegaConf.save(OmegaConf.create({"cfg": cfg}), tmp_path / "hparams.yaml")
    again = EncDecDenoiseMaskedTokenPredModel.load_from_checkpoint(
        tmp_path / "bare.ckpt", hparams_file=tmp_path / "hparams.yaml"
    )
    assert_same(model, again)
    with pytest.raises(ValueError, match="weights_only=False would run code"):
        EncDecDenoiseMaskedTokenPredModel.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=False)


# a run


def test_a_run_has_the_files_architecture_and_its_own_data_and_optimizer(model, small_config, tmp_path, log):
    model.save_to(tmp_path / "x.nemo")
    run = small_config(
        **{
            "encoder.d_model": 512,
            "masking.min_masks": 1,
            "train_ds.batch_size": 3,
            "optim.lr": 0.5,
            "restore_from": str(tmp_path / "x.nemo"),
        }
    )
    cfg = OmegaConf.create({"model": {**run, "optim": {**run.optim, "sched": {"d_model": "${model.encoder.d_model}"}}}})
    restored = restore_for_run(EncDecDenoiseMaskedTokenPredModel, cfg, None)
    assert_same(model, restored)
    assert (restored.cfg.encoder.d_model, restored.cfg.train_ds.batch_size, restored.cfg.optim.lr) == (16, 3, 0.5)
    assert restored.cfg.optim.sched.d_model == 16  # a reference to a size of the model follows the file
    assert restored.cfg.masking.min_masks == 1  # the file says nothing of it
    assert "x.nemo decides where this run's config says otherwise: model.encoder.d_model=16, not 512" in log.text
    assert "masking" not in log.records[-2].getMessage()
