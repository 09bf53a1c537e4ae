import math

import pytest

from utils.config_check import (
    as_yaml,
    first_line,
    is_number,
    is_share,
    nearest,
    refuse_unknown_keys,
    refuse_unless_neutral,
)


def test_the_nearest_name_is_offered():
    assert nearest("nlayers", ["n_layers", "d_model"]) == "; did you mean 'n_layers'?"


def test_without_a_near_name_a_short_list_is_shown_whole():
    assert nearest("zzz", ["b", "a"]) == "; known are a, b"
    assert nearest("zzz", [f"name{i}" for i in range(100)]) == ""


def test_a_key_of_a_section_is_near_to_its_path():
    assert nearest("lr", ["optim.lr", "lrs", "optim.lr.sched"]) == "; did you mean 'optim.lr'?"


def test_of_an_error_the_first_line_is_told():
    assert first_line(ValueError("\nwrong\n  full_key: a")) == "wrong"


@pytest.mark.parametrize(("path", "full"), [("trainer", "trainer.devics"), ("", "devics")])
def test_an_unknown_key_is_refused_under_its_full_name(path, full):
    with pytest.raises(ValueError, match=f"^{full} is not a known config key; did you mean 'devices'"):
        refuse_unknown_keys({"devics": 1}, ["devices"], path)


def test_known_keys_pass():
    refuse_unknown_keys({"devices": 1}, ["devices", "strategy"], "trainer")


def test_an_option_without_effect_may_stand_at_its_neutral_values():
    neutral = {"shuffle_n": (100, 128)}
    for values in ({"shuffle_n": 100}, {"shuffle_n": 128}, {"other": 1}, {}):
        refuse_unless_neutral(values, neutral, "model.train_ds", "has no effect")
    with pytest.raises(ValueError, match=r"^model\.train_ds\.shuffle_n=5 has no effect; remove it or set it to 100$"):
        refuse_unless_neutral({"shuffle_n": 5}, neutral, "model.train_ds", "has no effect")


@pytest.mark.parametrize(
    ("value", "number", "share"),
    [
        *((0, True, True), (1, True, True), (0.5, True, True)),
        *((-0.1, True, False), (1.5, True, False), (math.nan, True, False)),
        *((True, False, False), ("0.5", False, False), (None, False, False)),
    ],
)
def test_what_is_a_number_and_what_a_share(value, number, share):
    assert (is_number(value), is_share(value)) == (number, share)


def test_values_are_spelt_as_in_a_config():
    assert [as_yaml(value) for value in (None, True, False, 1, 0, 2.5, "a", [1])] == [
        *("null", "true", "false", "1", "0", "2.5", "'a'", "[1]")
    ]
    with pytest.raises(ValueError, match=r"^AudioNoiseDataset\.labels=true has no effect; .* set it to null$"):
        refuse_unless_neutral({"labels": True}, {"labels": (None,)}, "AudioNoiseDataset", "has no effect")
