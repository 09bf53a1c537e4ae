import importlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from core.classes import register_targets
from data.settings import DatasetSettings
from data.ssl_dataset import (
    AudioNoiseBatch,
    audio_noise_dataloader,
    get_audio_noise_dataset_from_config,
)
from modules.ssl_modules.augmentation import MultiSpeakerNoiseAugmentation
from tests.data import half_noise  # noqa: F401  (registers the batch augmentor that a section names)

ROOT = Path(__file__).resolve().parents[2]


TALKERS = {
    "_target_": "nemo.collections.asr.modules.ssl_modules.MultiSpeakerNoiseAugmentation",
    "prob": 1.0,
    "noise_ratio": 0.3,
    "min_mix_rate": 0.5,
    "max_mix_rate": 0.5,
}


register_targets({TALKERS["_target_"]: MultiSpeakerNoiseAugmentation})


# ---------------------------------------------------------------------------------------------------- evaluation


@pytest.fixture
def evaluation(speech_and_noise):
    def samples(**section) -> dict[str, list]:
        section = speech_and_noise(shuffle=False, batch_augmentor=TALKERS) | section
        ranks = section.pop("ranks", 1)
        mixed = {}
        for rank in range(ranks):
            loader = audio_noise_dataloader(section, training=False, global_rank=rank, world_size=ranks)
            for batch in loader:
                for name, noisy, length in zip(batch.sample_id, batch.noisy_audio, batch.audio_len):
                    mixed[name] = noisy[:length].tolist()
        return mixed

    return samples


@pytest.mark.parametrize("other", [{"batch_size": 1}, {"batch_size": 4}, {"ranks": 2}, {"shuffle": True}])
def test_in_evaluation_a_sample_is_mixed_alike_in_any_batch(evaluation, other):
    assert evaluation(batch_size=6) == evaluation(**other)


def batches(loader: DataLoader, epoch: int = 0) -> list[AudioNoiseBatch]:
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_training_changes_with_the_epoch_and_evaluation_does_not(speech_and_noise):
    for training in (True, False):
        loader = audio_noise_dataloader(speech_and_noise(shuffle=False, batch_size=6), training=training)
        (first,), (second,) = batches(loader, 0), batches(loader, 1)
        assert torch.equal(first.noise, second.noise) is not training


@pytest.mark.parametrize("manifest", [None, "???"])
def test_training_needs_a_manifest_and_evaluation_may_do_without(speech_and_noise, manifest):
    section = speech_and_noise(manifest_filepath=manifest)
    with pytest.raises(ValueError, match=r"model\.train_ds\.manifest_filepath is not set.*prepare_dummy_ssl_data"):
        audio_noise_dataloader(section)
    if manifest is None:
        assert audio_noise_dataloader(section, training=False, path="model.validation_ds") is None
        assert get_audio_noise_dataset_from_config(section, 0, 1) is None


# ---------------------------------------------------------------------------------------------------- options


def everything(section: dict) -> list:
    """All that a section decides about the batches of two epochs."""
    loader = audio_noise_dataloader(section)
    return [
        (batch.sample_id, batch.audio_len.tolist(), batch.noisy_audio.tolist(), batch.seeds.tolist())
        for epoch in range(2)
        for batch in batches(loader, epoch)
    ]


CHANGES = {
    "noise_manifest": None,
    "sample_rate": 8000,
    "batch_size": 3,
    "shuffle": False,
    "drop_last": True,
    "min_duration": 0.45,
    "max_duration": 0.55,
    "trim_silence": True,
    "int_values": True,
    "channel_selector": 1,
    "batch_augmentor": {"_target_": "tests.data.HalfNoise", "share": 0.25},
    "seed": 1,
    "min_audio_len_secs": 0.4,
    "pad_audio_mode": "zero",
    "normalize_db": -30.0,
    "augmentor": {"gain": {"prob": 1.0, "min_gain_dbfs": -6, "max_gain_dbfs": -6}},
    "batch_duration": 1.0,
}
TESTED_IN = {  # the options above are not all there are
    "test_loader.py": ("num_workers", "pin_memory", "quadratic_duration", "num_buckets", "max_rejected_share"),
    "conftest.py": ("is_tarred", "tarred_audio_filepaths"),  # in sections that others test
    "test_collate.py": ("rir_manifest", "rir_prob"),
    "test_sections.py": (
        "manifest_filepath",
        "is_concat",
        "concat_sampling_technique",
        "concat_sampling_temperature",
        "concat_sampling_scale",
        "concat_sampling_probabilities",
        "concat_shuffle",
        "concat_sampling_seed",
        "tarred_shard_strategy",
        "bucketing_strategy",
        "bucketing_batch_size",
        "bucketing_weights",
    ),
    "test_tarred_dataset.py": ("shuffle_n",),
    "test_lhotse_dataset.py": ("use_lhotse", "cuts_path", "shar_path"),
}


def test_every_option_is_tested_here_or_in_the_tests_of_its_kind():
    elsewhere = [option for options in TESTED_IN.values() for option in options]
    assert {*CHANGES, *elsewhere} == {*DatasetSettings.__dataclass_fields__}
    for name, options in TESTED_IN.items():
        text = (Path(__file__).parent / name).read_text(encoding="utf-8")
        assert [option for option in options if option not in text] == []


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_changes_the_batches(speech_and_noise, tmp_path, option):
    section = speech_and_noise(batch_size=4)
    rng = np.random.default_rng(1)
    stereo = rng.standard_normal((4800, 2)) * [2.0, 0.1]  # beyond full scale, with silence at the start
    stereo[:2400] = 0
    soundfile.write(tmp_path / "s1.wav", stereo, 16000, subtype="FLOAT")
    assert everything(section) == everything(section)
    assert everything(section | {option: CHANGES[option]}) != everything(section)


# ---------------------------------------------------------------------------------------------------- real data


def test_golden_group_8_equals_nemo(golden, monkeypatch):
    monkeypatch.syspath_prepend(golden)
    check, cases_lib = importlib.import_module("check"), importlib.import_module("cases_lib")
    records = list(golden.glob("8_*/*.json"))
    for record in records:
        case, given, expected = check.load_case(str(golden), str(record))
        case["_root"] = str(golden)
        found, meta = cases_lib.run_case(cases_lib.Api(ROOT), case, given)
        result = check.Result()
        check.CHECKS.get(case["kind"], check.chk_default)(
            result, case, given, found, meta, expected, case["expected_meta"]
        )
        assert not result.fail, f"{record.name}: {result.fail}"
    assert len(records) >= 22
