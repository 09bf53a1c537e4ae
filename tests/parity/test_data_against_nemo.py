"""Data sets of NeMo and of this project on the tool's own files and on a user's manifests, in one process.

Runs where NeMo 3.0.0 can be imported (`pytest -m nemo tests/parity/test_data_against_nemo.py` in its environment).
"""

import importlib.util
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from data import audio_to_text
from parts.preprocessing.segment import BadAudio
from tools.parity.aspects.data import compare, measure
from tools.parity.cases import DENOISE, model_case
from tools.parity.jobs import kept_job
from tools.parity.records import Job, Record
from tools.parity.rows import FAILED, KNOWN, NOT_RUN, PASSED, Row
from tools.parity.side import Side

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif(importlib.util.find_spec("nemo") is None, reason="needs the real NeMo 3.0.0 to be installed"),
]
RATE = 16000
MANIFEST = "your manifest"


@pytest.fixture(scope="module", autouse=True)
def quiet_nemo():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def job(**changes) -> Job:
    return replace(kept_job("model_pre_conv_1_book"), aspects=("data",), brief_trace=False, **changes)


def rows_of(asked: Job, folder) -> list[Row]:
    records = [Record(asked, {}, {"data": measure(Side(name, asked, folder))}) for name in ("ours", "nemo")]
    return list(compare(*records))


def failed(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.status == FAILED]


@pytest.mark.parametrize("sample_rate", [16000, 8000])
def test_every_sample_and_every_distribution_is_nemos(sample_rate, tmp_path):
    rows = rows_of(job(case=model_case(DENOISE, sample_rate=sample_rate)), tmp_path)
    assert failed(rows) == []
    assert sum(row.status == PASSED for row in rows) > 100
    assert max(row.error for row in rows if "audio" in row.what and row.status == PASSED) < 1e-6


TRAIN = {"min_duration": 1.5, "max_duration": 12.0, "batch_size": 3, "drop_last": True}


@pytest.mark.parametrize("options", [{}, TRAIN, {"trim_silence": True, "channel_selector": 0, "int_values": True}])
def test_a_users_manifest_gives_nemos_items_and_batches(options, shared_data, tmp_path):
    manifests = shared_data.resolve() / "manifests"
    augmentor = {"_target_": "nemo.collections.asr.modules.ssl_modules.SpeakerNoiseAugmentation", "prob": 0.7}
    section = options | {"batch_augmentor": augmentor | {"min_mix_rate": 0.2, "max_mix_rate": 0.6}}
    asked = job(
        case=model_case(DENOISE, train_ds=section),
        manifest=str(manifests / "speech_val.json"),
        noise_manifest=str(manifests / "noise_val.json"),
    )
    rows = rows_of(asked, tmp_path)
    assert failed(rows) == []
    whats = {row.what for row in rows if row.status == PASSED}
    assert {f"{MANIFEST} item 15: audio", f"{MANIFEST} batch 2: audio", "noise of your manifest: level, dB"} <= whats
    assert "mixing, as in the config: energy ratio, dB" in whats


@pytest.fixture
def mixed_manifest(tmp_path):
    """A good file, a silent one, one that is missing and one of two channels, whose durations aren't all stated."""
    rng = np.random.default_rng(0)
    good, stereo = 0.1 * rng.standard_normal(20000), 0.1 * rng.standard_normal((20000, 2))
    sounds = {"good.wav": good, "silent.wav": np.zeros(20000), "stereo.wav": stereo}
    for name, samples in sounds.items():
        soundfile.write(tmp_path / name, samples, RATE)
    lines = [
        {"audio_filepath": "good.wav", "duration": 1.25},
        {"audio_filepath": "silent.wav", "duration": 1.25},
        {"audio_filepath": "missing.wav", "duration": 1.25},
        {"audio_filepath": "stereo.wav"},
    ]
    path = tmp_path / "mixed.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def test_files_that_cant_be_used_are_no_failures_and_the_others_are_compared(mixed_manifest, tmp_path):
    rows = rows_of(job(manifest=mixed_manifest), tmp_path)
    assert failed(rows) == []
    status = {row.what: row.status for row in rows}
    assert status[f"{MANIFEST} item 1"] == status[f"{MANIFEST} item 2"] == KNOWN
    assert status[f"{MANIFEST}: batches"] == NOT_RUN
    assert status[f"{MANIFEST} item 0: audio"] == status[f"{MANIFEST} item 3: audio"] == PASSED


def test_an_augmentor_of_the_config_is_said_to_be_left_out(mixed_manifest, tmp_path):
    asked = job(manifest=mixed_manifest, case=model_case(DENOISE, train_ds={"augmentor": {"gain": {"prob": 1.0}}}))
    rows = [row for row in rows_of(asked, tmp_path) if row.what == "train_ds.augmentor"]
    assert [row.status for row in rows] == [NOT_RUN]


def test_a_good_file_that_ours_replaces_is_a_failure(mixed_manifest, monkeypatch, tmp_path):
    load = audio_to_text.load_audio

    def refuse_some(source, *arguments, **options):
        if str(source).endswith("stereo.wav"):
            raise BadAudio("unreadable", "several channels")
        return load(source, *arguments, **options)

    monkeypatch.setattr(audio_to_text, "load_audio", refuse_some)
    assert f"{MANIFEST} item 3" in [row.what for row in failed(rows_of(job(manifest=mixed_manifest), tmp_path))]
