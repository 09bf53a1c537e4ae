"""Tables of options: what goes to transformers comes back."""

import pytest
from omegaconf import OmegaConf

pytest.importorskip("transformers.models.parakeet")

from tools.conversion.parakeet_config import (
    ENCODER_OPTIONS,
    PARAKEET_OPTIONS,
    checked,
    extractor,
    from_extractor,
    from_parakeet_config,
    parakeet_config,
)

EXTRACTOR = {"feature_extractor_type": "ParakeetFeatureExtractor"}


def test_every_option_is_translated_once():
    assert len(set(ENCODER_OPTIONS.values())) == len(ENCODER_OPTIONS)
    assert set(ENCODER_OPTIONS.values()) <= set(PARAKEET_OPTIONS)
    assert len(set(PARAKEET_OPTIONS)) == len(PARAKEET_OPTIONS)


def test_options_of_a_config_come_out_under_our_names():
    section = {"hidden_size": 24, "intermediate_size": 72, "num_hidden_layers": 3, "scale_input": False}
    encoder = from_parakeet_config(section, "config.json")
    assert (encoder["d_model"], encoder["ff_expansion_factor"], encoder["n_layers"]) == (24, 3, 3)
    assert encoder["xscaling"] is False


def test_what_a_config_does_not_say_is_transformers_default():
    theirs = checked({}, "config.json")
    built = parakeet_config({}, "config.json")
    assert all(getattr(built, name) == value for name, value in theirs.items())


def test_unknown_options_are_built_into_nothing():
    assert not hasattr(parakeet_config({"anything": 1}, "config.json"), "anything")
    assert not hasattr(extractor(EXTRACTOR | {"anything": 1}, "preprocessor_config.json"), "anything")


def test_windows_in_samples_come_out_in_seconds():
    section = OmegaConf.create(from_extractor(EXTRACTOR | {"hop_length": 80, "win_length": 200}, "x"))
    assert (section.window_stride, section.window_size) == (0.005, 0.0125)
