import json

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ValidationError

from utils.exp_config import NEMO_ONLY, SECTIONS, ExpManagerConfig, read_exp_config


def nested(key: str, value: object) -> dict:
    section, _, name = key.rpartition(".")
    return {section: {name: value}} if section else {name: value}


def test_options_and_defaults_are_nemos(golden):
    nemos = json.loads((golden / "nemo_config" / "exp_manager.json").read_text(encoding="utf-8"))
    ours = OmegaConf.to_container(OmegaConf.structured(ExpManagerConfig))
    for key, (default, _) in NEMO_ONLY.items():
        ours = OmegaConf.to_container(OmegaConf.merge(ours, nested(key, default)))
    assert ours == nemos


def test_all_of_nemos_defaults_are_accepted(golden):
    nemos = json.loads((golden / "nemo_config" / "exp_manager.json").read_text(encoding="utf-8"))
    assert read_exp_config(nemos) == ExpManagerConfig()


@pytest.mark.parametrize("key", NEMO_ONLY)
def test_an_option_without_effect_is_refused_at_any_other_value(key):
    default, remedy = NEMO_ONLY[key]
    other = {next(iter(default)): "other"} if isinstance(default, dict) else "other"
    with pytest.raises(ValueError, match=rf"exp_manager\.{key}=.*other.* is not implemented: leave it out; {remedy}"):
        read_exp_config(nested(key, other))
    assert read_exp_config(nested(key, default)) == ExpManagerConfig()


@pytest.mark.parametrize("section", ["", *SECTIONS, "ema"])
def test_a_key_that_nemo_does_not_know_is_refused_at_any_depth(section):
    given = {section: {"no_such_key": 1}} if section else {"no_such_key": 1}
    with pytest.raises(ValueError, match=rf"exp_manager\.{section}.*no_such_key is not a known config key"):
        read_exp_config(given)


def test_the_nearest_key_is_named():
    with pytest.raises(ValueError, match="did you mean 'save_top_k'"):
        read_exp_config({"checkpoint_callback_params": {"save_topk": 3}})


def test_a_value_of_the_wrong_type_is_refused():
    with pytest.raises(ValidationError):
        read_exp_config({"checkpoint_callback_params": {"save_top_k": "many"}})


def test_an_empty_section_means_its_defaults():
    assert read_exp_config({"ema": None, "step_timing_kwargs": None}) == ExpManagerConfig()


def test_references_to_the_rest_of_the_config_are_followed():
    whole = OmegaConf.create({"name": "mine", "exp_manager": {"name": "${name}"}})
    assert read_exp_config(whole.exp_manager).name == "mine"
