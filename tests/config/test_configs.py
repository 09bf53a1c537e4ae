"""The yamls: NeMo's keys and values but for the documented exceptions, the sizes, and what composes from them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

CONFIG = Path(__file__).resolve().parents[2] / "config"
EXCEPTIONS = {  # docs: README, "how it differs from NeMo"
    "trainer.strategy": "auto",
    "trainer.devices": "auto",
    "model.train_ds.num_workers": 0,
    "model.validation_ds.num_workers": 0,
    "trainer.check_val_every_n_epoch": None,
    "model.validation_ds.manifest_filepath": None,
}
OURS_IN_BOTH_SECTIONS = {
    "channel_selector": "average",
    "seed": 0,
    "min_audio_len_secs": 1.0,
    "pad_audio_mode": "repeat",
    "normalize_db": None,
    "batch_duration": None,
    "num_buckets": None,
    "quadratic_duration": None,
    "rir_manifest": None,
    "rir_prob": 0.5,
    "use_lhotse": False,
    "cuts_path": None,
    "shar_path": None,
}
NEMOS = {  # keys that NeMo knows and its file leaves out, at its defaults
    "model.train_ds.concat_sampling_probabilities": None,
    "model.train_ds.concat_sampling_scale": 1,
    "model.train_ds.concat_sampling_seed": None,
    "model.train_ds.concat_shuffle": True,
    "model.train_ds.tarred_shard_strategy": "scatter",
    "model.train_ds.bucketing_weights": None,
    "model.train_ds.augmentor": None,
    "model.train_ds.int_values": False,
    "model.validation_ds.drop_last": False,
    "model.validation_ds.trim_silence": False,
    "model.validation_ds.int_values": False,
    "model.validation_ds.is_concat": False,
    "model.validation_ds.concat_sampling_technique": None,
    "model.validation_ds.is_tarred": False,
    "model.validation_ds.tarred_audio_filepaths": None,
}
OURS = NEMOS | {  # keys that NeMo's file doesn't have, each at the value that changes nothing
    "seed": None,
    "init_from_nemo_model": None,
    "init_from_pretrained_model": None,
    "init_from_ptl_ckpt": None,
    "model.restore_from": None,
    "model.masking.min_masks": 0,
    "model.masking.detach": True,
    **{f"model.train_ds.{key}": value for key, value in OURS_IN_BOTH_SECTIONS.items()},
    **{f"model.validation_ds.{key}": value for key, value in OURS_IN_BOTH_SECTIONS.items()},
    "model.train_ds.max_rejected_share": 0.5,  # the one that may stop a run: NeMo stops at the first bad file
    "exp_manager.version": None,
    "exp_manager.explicit_log_dir": None,
    "exp_manager.checkpoint_callback_params.save_last": True,
    "exp_manager.resume_from_checkpoint": None,
    "exp_manager.create_early_stopping_callback": False,
    "exp_manager.max_time_per_run": None,
    "exp_manager.max_skipped_steps_in_a_row": 10,
    "exp_manager.create_csv_logger": False,
    "exp_manager.create_mlflow_logger": False,
    "exp_manager.ema.enable": False,
    "exp_manager.ema.decay": 0.999,
}
NOT_OF_NEMO = {"max_skipped_steps_in_a_row", "create_csv_logger"}  # of exp_manager
SIZES = {  # d_model, n_heads, n_layers, conv_kernel_size, weight_decay, xscaling, use_bias
    "small": (176, 4, 16, 9, 0.0, True, True),
    "medium": (256, 4, 16, 9, 0.001, True, True),
    "large": (512, 8, 17, 9, 0.001, True, True),
    "xlarge": (1024, 8, 24, 9, 0.001, False, False),
    "xxlarge": (1024, 8, 42, 5, 0.001, False, False),
}


def composed(*overrides: str, name: str = "nest_fast-conformer") -> DictConfig:
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        return compose(name, list(overrides))


def leaves(tree: dict, path: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from leaves(value, name)
        else:
            yield name, value


def our_leaves() -> dict[str, object]:
    return dict(leaves(OmegaConf.to_container(composed(), resolve=False)))


def nemos_leaves(golden: Path) -> dict[str, object]:
    return dict(leaves(json.loads((golden / "nemo_config" / "nest_fast-conformer.json").read_text(encoding="utf-8"))))


def test_every_key_of_nemo_has_nemos_value_but_for_the_exceptions(golden):
    ours, nemos = our_leaves(), nemos_leaves(golden)
    assert {key: value for key, value in ours.items() if nemos.get(key, value) != value} == EXCEPTIONS
    assert not nemos.keys() - ours.keys()


def test_keys_of_ours_stand_at_their_neutral_default(golden):
    nemos = nemos_leaves(golden)
    assert {key: value for key, value in our_leaves().items() if key not in nemos} == OURS


def test_keys_of_exp_manager_are_nemos_but_for_two(golden):
    nemos = dict(leaves(json.loads((golden / "nemo_config" / "exp_manager.json").read_text(encoding="utf-8"))))
    ours = {key.removeprefix("exp_manager.") for key in OURS if key.startswith("exp_manager.")} - NOT_OF_NEMO
    assert ours <= nemos.keys()
    assert all(OURS[f"exp_manager.{key}"] == nemos[key] for key in ours)


@pytest.mark.parametrize("path", sorted(CONFIG.rglob("*.yaml")), ids=lambda path: path.name)
def test_numbers_are_numbers_for_every_yaml_reader(path):
    """PyYAML reads 1e-3 as text; OmegaConf doesn't."""
    plain = dict(leaves(yaml.safe_load(path.read_text(encoding="utf-8"))))
    assert not [key for key, value in plain.items() if isinstance(value, str) and value[:1].isdigit()]


@pytest.mark.parametrize("size", SIZES)
def test_a_size_sets_what_the_table_says_and_nothing_else(size):
    cfg, default = composed(f"model_size={size}"), composed()
    encoder = cfg.model.encoder
    assert (
        encoder.d_model,
        encoder.n_heads,
        encoder.n_layers,
        encoder.conv_kernel_size,
        cfg.model.optim.weight_decay,
        encoder.xscaling,
        encoder.use_bias,
    ) == SIZES[size]
    changed = {"d_model", "n_heads", "n_layers", "conv_kernel_size", "xscaling", "use_bias", "weight_decay"}
    before = dict(leaves(OmegaConf.to_container(default, resolve=False)))
    for key, value in leaves(OmegaConf.to_container(cfg, resolve=False)):
        assert before[key] == value or key.rpartition(".")[2] in changed


def test_the_default_size_is_large():
    assert composed() == composed("model_size=large")


def test_an_override_wins_over_the_size():
    assert composed("model_size=small", "model.encoder.n_layers=2").model.encoder.n_layers == 2


def test_the_ddp_example_changes_the_strategy_alone():
    example, default = composed(name="nest_fast-conformer_ddp_example"), composed()
    assert example.trainer.strategy.gradient_as_bucket_view is True
    example.trainer.strategy = default.trainer.strategy
    assert example == default


def test_quickstart_asks_for_enough_codes():
    assert composed(name="quickstart").model.num_classes >= 64
