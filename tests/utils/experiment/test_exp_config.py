import json
from collections.abc import Iterator

import pytest
from omegaconf import OmegaConf

from utils.experiment.exp_config import NEMO_ONLY, OURS, SECTIONS, ExpManagerConfig, read_exp_config

OURS_ALONE = {"create_csv_logger", "max_skipped_steps_in_a_row"}  # keys that NeMo doesn't have


def nested(key: str, value: object) -> dict:
    """nested("a.b", 1) == {"a": {"b": 1}}"""
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def leaves(tree: dict, path: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


REFUSED = [leaf for key, (default, _) in NEMO_ONLY.items() for leaf, _ in leaves(nested(key, default))]


@pytest.fixture
def nemos(golden) -> dict:
    return json.loads((golden / "nemo_config" / "exp_manager.json").read_text(encoding="utf-8"))


def test_options_and_defaults_are_nemos(nemos):
    ours = OmegaConf.to_container(OmegaConf.structured(ExpManagerConfig))
    for key, (default, _) in NEMO_ONLY.items():
        ours = OmegaConf.to_container(OmegaConf.merge(ours, nested(key, default)))
    assert {key: value for key, value in ours.items() if key not in OURS_ALONE} == nemos
    assert len(nemos) == 41


def test_all_of_nemos_defaults_are_accepted_together_and_alone(nemos):
    assert read_exp_config(nemos) == ExpManagerConfig()
    for key, default in leaves(nemos):
        assert read_exp_config(nested(key, default)) == ExpManagerConfig(), key


def test_an_option_is_built_or_refused_by_name_at_any_other_value(nemos):
    for key, default in leaves(nemos):
        for other in ("other", 17, not default, ["a"]):
            try:
                options = read_exp_config(nested(key, other))
            except ValueError as error:
                assert f"exp_manager.{key}" in str(error) and "\n" not in str(error)
                continue
            read = OmegaConf.select(OmegaConf.structured(options), key)
            assert key not in REFUSED and read in (other, str(other), bool(other)), key


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_refused_says_what_to_do_instead(key):
    remedy = next(remedy for option, (_, remedy) in NEMO_ONLY.items() if f"{key}.".startswith(f"{option}."))
    with pytest.raises(ValueError) as refused:
        read_exp_config(nested(key, "other"))
    assert str(refused.value) == f"exp_manager.{key}='other' is not implemented: leave it out; {remedy}"


@pytest.mark.parametrize("section", ["", *SECTIONS, "clearml_logger_kwargs", "fault_tolerance"])
def test_a_key_that_nemo_does_not_know_is_refused_at_any_depth(section):
    key = f"{section}.no_such_key" if section else "no_such_key"
    with pytest.raises(ValueError, match=rf"exp_manager\.{key} is not a known config key"):
        read_exp_config(nested(key, 1))


def test_a_slip_in_any_key_gets_the_key_itself(nemos):
    for key, default in leaves(nemos):
        section, _, name = key.rpartition(".")
        path = f"{section}.{name}_" if section else f"{name}_"
        with pytest.raises(ValueError, match=rf"^exp_manager\.{path} is not a known config key; did you mean '{name}'"):
            read_exp_config(nested(path, default))


@pytest.mark.parametrize("key", ["async_save", "save_top_k", "patience"])
def test_a_key_in_the_wrong_section_gets_the_right_one(key):
    section = "early_stopping_callback_params" if key == "patience" else "checkpoint_callback_params"
    with pytest.raises(ValueError, match=rf"^exp_manager\.{key} is not .*; did you mean '{section}\.{key}'\?$"):
        read_exp_config({key: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("checkpoint_callback_params.save_top_k", "many"),
        ("checkpoint_callback_params.save_top_k", 2.5),
        ("checkpoint_callback_params.save_top_k", None),
        ("checkpoint_callback_params.monitor", ["val_loss"]),
        ("ema.decay", "slow"),
        ("create_wandb_logger", "maybe"),
        ("create_wandb_logger", None),
        ("exp_dir", ["a", "b"]),
        ("files_to_copy", "a.txt"),
        ("files_to_copy", {"a": 1}),
        ("wandb_logger_kwargs", 5),
        ("mlflow_logger_kwargs", "file"),
        ("checkpoint_callback_params", [1]),
        ("clearml_logger_kwargs", 5),
        ("exp_dir", "???"),
        ("exp_dir", "${nothing}"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_in_one_line(key, value):
    with pytest.raises(ValueError, match=rf"^(exp_manager\.)?{key}") as refused:
        read_exp_config(nested(key, value))
    assert "\n" not in str(refused.value)


def test_a_section_that_is_no_mapping_is_refused():
    with pytest.raises(ValueError, match=r"exp_manager=.* must be a mapping"):
        read_exp_config(["name"])


def test_an_empty_section_means_its_defaults():
    assert read_exp_config(dict.fromkeys(SECTIONS)) == ExpManagerConfig()


def test_references_to_the_rest_of_the_config_are_followed():
    whole = OmegaConf.create({"name": "mine", "exp_manager": {"name": "${name}"}})
    assert read_exp_config(whole.exp_manager).name == "mine"


def test_a_path_is_a_text(tmp_path):
    assert read_exp_config({"exp_dir": tmp_path}).exp_dir == str(tmp_path)


def test_no_option_is_both_built_and_refused():
    assert not OURS & NEMO_ONLY.keys()
