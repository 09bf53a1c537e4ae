"""Our `load_audio` and NeMo's `AudioSegment.from_file` on the same real files, with every option at several values.

Runs where NeMo 3.0.0 can be imported (`pytest -m nemo tests/parity/test_audio_against_nemo.py` in its environment).
"""

import importlib.util
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from parts.preprocessing.audio_file import BadAudio
from parts.preprocessing.segment import load_audio

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif(importlib.util.find_spec("nemo") is None, reason="needs the real NeMo 3.0.0 to be installed"),
]

TOLERANCE = 1e-6  # an MP3 decoder that starts earlier rounds otherwise
OPUS_TOLERANCE = 5e-3  # in the middle of a file
RATES = (8000, 16000, 22050)
OPTIONS = [
    {"trim": trim, "int_values": int_values, "normalize_db": normalize_db}
    for trim, int_values, normalize_db in itertools.product((False, True), (False, True), (None, -20.0, -33.3))
]


def nemo_samples(path: Path, sample_rate: int, **options) -> np.ndarray:
    from nemo.collections.asr.parts.preprocessing.segment import AudioSegment

    return AudioSegment.from_file(str(path), target_sr=sample_rate, **options).samples


def one_file_per_kind(shared_data: Path) -> list[Path]:
    """Of the shared speech and noise, one file for each format, encoding, rate and number of channels."""
    kinds = {}
    for manifest in ("speech_train", "speech_val", "noise_train", "noise_val", "fsdd_train", "rir"):
        for line in (shared_data / "manifests" / f"{manifest}.json").read_text(encoding="utf-8").splitlines():
            path = shared_data / "manifests" / json.loads(line)["audio_filepath"]
            info = soundfile.info(path)
            kinds.setdefault((info.format, info.subtype, info.samplerate, info.channels), path)
    assert len(kinds) > 15
    return list(kinds.values())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_gives_nemos_samples(shared_data, options):
    for path, rate in zip(one_file_per_kind(shared_data), itertools.cycle(RATES), strict=False):
        info = soundfile.info(path)
        if options["int_values"] and info.subtype in ("FLOAT", "DOUBLE"):
            continue  # NeMo makes silence of them
        duration = min(20.0, info.duration)
        expected = nemo_samples(path, rate, duration=duration, channel_selector="average", **options)
        ours = load_audio(path, rate, duration=duration, **options)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE, err_msg=str(path))


@pytest.mark.parametrize("selector", [0, 1, [1], "average"])
def test_every_channel_selector_gives_nemos_samples(shared_data, selector):
    several = [path for path in one_file_per_kind(shared_data) if soundfile.info(path).channels > 1]
    for path in [*several, *(shared_data / "bad" / "audio").glob("s*e*s.wav")]:
        expected = nemo_samples(path, 16000, channel_selector=selector)
        np.testing.assert_allclose(load_audio(path, 16000, channel_selector=selector), expected, rtol=0, atol=TOLERANCE)
    assert several


@pytest.mark.parametrize("seed", range(40))
def test_a_piece_begins_and_ends_at_nemos_samples(shared_data, seed):
    rng = np.random.default_rng(seed)
    for path in one_file_per_kind(shared_data):
        info = soundfile.info(path)
        offset = round(rng.uniform(0, 0.9) * info.duration, int(rng.integers(1, 7)))
        duration = round(rng.uniform(0, 1.2) * (info.duration - offset), int(rng.integers(1, 7)))
        place = {"offset": offset, "duration": duration}
        expected = nemo_samples(path, info.samplerate, channel_selector="average", **place)
        try:
            ours = load_audio(path, info.samplerate, allow_silent=True, **place)
        except BadAudio as error:
            assert error.reason in ("empty", "bad_entry") and len(expected) == 0, (path, place)
            continue
        assert len(ours) == len(expected), (path, place)
        if info.subtype == "VORBIS" or "MPEG" in info.subtype:
            continue  # a seek of libsndfile's can be wrong here; see test_audio_file.py
        tolerance = OPUS_TOLERANCE if info.subtype == "OPUS" else 0
        np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance, err_msg=f"{path} {place}")
