import json

import pytest
from omegaconf import OmegaConf

from data.settings import NOT_YET, READS_NO_TEXT, DatasetSettings

REQUIRED = {"sample_rate": 16000, "batch_size": 8, "shuffle": True}


def settings(**section):
    return DatasetSettings.from_config(REQUIRED | section, "model.train_ds")


@pytest.mark.parametrize("section", ["train_ds", "validation_ds"])
def test_the_sections_of_nemos_config_are_accepted(golden, section):
    model = json.loads((golden / "nemo_config" / "nest_fast-conformer.json").read_text(encoding="utf-8"))["model"]
    read = DatasetSettings.from_config(OmegaConf.create({"model": model}).model[section], f"model.{section}")
    assert (read.min_duration, read.max_duration, read.batch_size) == (1.0, 60.0, 8)
    assert read.sample_rate == model["sample_rate"]


@pytest.mark.parametrize(("typo", "meant"), [("max_durations", "max_duration"), ("noise_manifests", "noise_manifest")])
def test_an_unknown_key_is_an_error_with_the_nearest_match(typo, meant):
    with pytest.raises(ValueError, match=f"^model.train_ds.{typo} is not a known config key; did you mean '{meant}'"):
        settings(**{typo: 1})


@pytest.mark.parametrize("key", NOT_YET | READS_NO_TEXT)
def test_what_is_not_built_is_accepted_at_nemos_default_and_refused_by_name_otherwise(key):
    for value in (NOT_YET | READS_NO_TEXT)[key]:
        settings(**{key: value})
    with pytest.raises(ValueError, match=rf"^model\.train_ds\.{key}='other' .*set it to") as caught:
        settings(**{key: "other"})
    assert "\n" not in str(caught.value)


def test_a_one_is_not_taken_for_true():
    with pytest.raises(ValueError, match=r"is_tarred=True is not supported yet"):
        settings(is_tarred=True)


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_required_key_is_named(key):
    section = {k: v for k, v in REQUIRED.items() if k != key}
    with pytest.raises(ValueError, match=rf"^model\.validation_ds\.{key} is missing"):
        DatasetSettings.from_config(section, "model.validation_ds")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 0),
        ("batch_size", "8"),
        ("sample_rate", 16000.0),
        ("num_workers", -1),
        ("seed", -1),
        ("seed", None),
        ("shuffle", "yes"),
        ("drop_last", 1),
        ("min_duration", "1"),
        ("max_duration", -2.0),
        ("min_duration", float("nan")),
        ("min_audio_len_secs", None),
        ("min_audio_len_secs", float("inf")),
        ("normalize_db", "loud"),
        ("normalize_db", True),
        ("pad_audio_mode", "loop"),
        ("pad_audio_mode", ["zero"]),
        ("channel_selector", "left"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_its_path(key, value):
    with pytest.raises(ValueError, match=rf"^model\.train_ds\.{key}="):
        settings(**{key: value})


@pytest.mark.parametrize("key", ["min_duration", "max_duration", "normalize_db"])
def test_null_switches_a_bound_or_the_level_off(key):
    assert getattr(settings(**{key: None}), key) is None


def test_crossed_duration_bounds_are_an_error():
    with pytest.raises(ValueError, match=r"^model\.train_ds\.min_duration=3.0 is above max_duration=2.0"):
        settings(min_duration=3.0, max_duration=2.0)
