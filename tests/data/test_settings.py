import json
from dataclasses import fields

import pytest
from omegaconf import OmegaConf

from data.batching import ARRANGEMENTS
from data.dataset import SHARES
from data.settings import (
    CHOICES,
    HAS_NO_EFFECT,
    IDLE,
    IDLE_BESIDE,
    NEEDS,
    NOT_TOGETHER,
    READS_NO_TEXT,
    DatasetSettings,
    as_in_yaml,
)
from data.tarred_dataset import BUCKET_ORDERS
from parts.preprocessing.manifest_paths import SHARD_STRATEGIES

FLAGS = [field.name for field in fields(DatasetSettings) if field.type is bool]
REQUIRED = {"sample_rate": 16000, "shuffle": True}


def settings(**section):
    return DatasetSettings.from_config({**REQUIRED, "batch_size": 8} | section, "model.train_ds")


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


@pytest.mark.parametrize("key", HAS_NO_EFFECT | READS_NO_TEXT)
def test_a_key_without_effect_is_accepted_at_nemos_default_and_refused_by_name_otherwise(key):
    for value in (HAS_NO_EFFECT | READS_NO_TEXT)[key]:
        settings(**{key: value})
    with pytest.raises(ValueError, match=rf"^model\.train_ds\.{key}='other' .*set it to") as caught:
        settings(**{key: "other"})
    assert "\n" not in str(caught.value)


def test_messages_write_null_and_true_as_a_config_does():
    with pytest.raises(ValueError, match=r"seed=null is not a whole number"):
        settings(seed=None)
    with pytest.raises(ValueError, match=r"num_workers=true is not a whole number"):
        settings(num_workers=True)
    with pytest.raises(ValueError, match=r"is not one of round-robin, random, temperature, null$"):
        settings(concat_sampling_technique="warm")


@pytest.mark.parametrize("key", FLAGS)
def test_a_one_is_not_taken_for_true(key):
    with pytest.raises(ValueError, match=rf"^model\.train_ds\.{key}=1 is not true or false"):
        settings(**{key: 1})


@pytest.mark.parametrize("key", CHOICES)
def test_a_choice_that_isnt_one_is_named_with_those_that_are(key):
    for choice in CHOICES[key]:
        assert getattr(settings(**{key: choice}), key) == choice
    with pytest.raises(ValueError, match=rf"^model\.train_ds\.{key}='other' is not one of {CHOICES[key][0]}"):
        settings(**{key: "other"})


def test_choices_are_those_that_are_built():
    assert {*CHOICES["concat_sampling_technique"]} == {*SHARES, None}
    assert {*CHOICES["tarred_shard_strategy"]} == {*SHARD_STRATEGIES}
    assert {*CHOICES["bucketing_strategy"]} == {*ARRANGEMENTS, None} == {*BUCKET_ORDERS, None}


ASKING = {  # a value of each key that asks for something
    "num_buckets": 4,
    "quadratic_duration": 20.0,
    "cuts_path": "cuts.jsonl",
    "shar_path": "shar",
    "concat_sampling_technique": "random",
    "concat_sampling_temperature": 2.0,
    "concat_sampling_scale": 2,
    "concat_sampling_probabilities": [0.5, 0.5],
    "concat_shuffle": False,
    "concat_sampling_seed": 0,
    "tarred_audio_filepaths": "audio_0.tar",
    "tarred_shard_strategy": "replicate",
    "shuffle_n": 128,
    "bucketing_strategy": "fixed_order",
    "bucketing_batch_size": 4,
    "bucketing_weights": [2, 1],
}


@pytest.mark.parametrize("key", NEEDS)
def test_a_key_of_ours_that_needs_another_is_refused_without_it(key):
    with pytest.raises(ValueError, match=rf"^model\.train_ds\.{key}=.* has no effect without {NEEDS[key]}; set that"):
        settings(**{key: ASKING[key]})


@pytest.mark.parametrize("key", IDLE)
def test_a_key_of_nemos_that_needs_another_is_said_to_have_no_effect_without_it(key):
    needed, accepted = IDLE[key]
    assert not any(list(settings(**{key: value}).without_effect()) for value in accepted)
    (said,) = settings(**{key: ASKING[key]}).without_effect()
    assert said.startswith(f"{key}=") and said.endswith(f" has no effect without {needed}=true")
    together = settings(**{"concat_sampling_technique": "random", key: ASKING[key], needed: True})
    assert [said for said in together.without_effect() if key in said] == []


@pytest.mark.parametrize("key", IDLE_BESIDE)
def test_a_key_that_does_nothing_beside_the_value_of_another_is_said_to(key):
    other, values = IDLE_BESIDE[key]
    for value in values:
        said = list(settings(**{"is_concat": True, other: value, key: ASKING[key]}).without_effect())
        assert f"{key}={ASKING[key]} has no effect with {other}={as_in_yaml(value)}" in said


def test_what_has_no_effect_is_logged_with_its_path(log):
    settings(tarred_audio_filepaths="only_here.tar")
    assert "model.train_ds.tarred_audio_filepaths='only_here.tar' has no effect without is_tarred=true" in log.text


@pytest.mark.parametrize("pair", NOT_TOGETHER, ids=" and ".join)
def test_two_keys_that_exclude_each_other_are_named(pair):
    values = ASKING | {"batch_duration": 60, "manifest_filepath": "m.json"}
    one, other = pair
    with pytest.raises(ValueError, match=rf"^model\.train_ds\.{other}=.* and {one} .*; set one to null or false"):
        settings(**{key: values.get(key, True) for key in pair})


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"batch_size": None}, "batch_size is missing"),
        ({"is_tarred": True, "manifest_filepath": "m.json"}, "tarred_audio_filepaths is missing"),
        ({"min_duration": 3, "max_duration": 2}, "min_duration=3 is above max_duration=2"),
    ],
)
def test_values_that_are_wrong_together_are_refused(section, said):
    with pytest.raises(ValueError, match=rf"^model\.train_ds[.:] ?{said}"):
        settings(**section)


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
        ("num_buckets", 0),
        ("batch_duration", 0),
        ("quadratic_duration", "20"),
        ("rir_prob", 1.5),
        ("max_rejected_share", None),
        ("concat_sampling_scale", -3),
        ("concat_sampling_temperature", "warm"),
        ("concat_sampling_probabilities", [0.5, "half"]),
        ("concat_sampling_probabilities", 0.5),
        ("bucketing_batch_size", "x"),
        ("bucketing_batch_size", [4, 0]),
        ("bucketing_weights", [1, 0.5]),
        ("augmentor", ["gain"]),
        ("batch_augmentor", "noise"),
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
