"""What becomes of every hostile file of the shared data: used, or rejected for which reason."""

import io
import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data.ssl_dataset import audio_noise_dataloader, load_noise_audio
from parts.preprocessing.audio_file import BadAudio
from parts.preprocessing.segment import load_audio

RATE = 16000
USED = ""

REASONS = {
    "UPPER.WAV": USED,
    "aiff.aiff": USED,
    "alaw_8k.wav": USED,
    "all_zero.wav": "silent",
    "clipped.wav": USED,
    "constant_dc.wav": "silent",
    "dc_offset_speech.wav": USED,
    "directory.wav": "unreadable",
    "extensible.wav": USED,
    "flac24.flac": USED,
    "flac_named.wav": USED,
    "float32.wav": USED,
    "float64.wav": USED,
    "git_lfs_pointer.wav": "unreadable",
    "header_only.wav": "empty",
    "header_only_claims_1s.wav": "empty",
    "headerless_s16le_16k.raw": "unreadable",
    "html_404_named.wav": "unreadable",
    "huge_claimed_size.wav": USED,
    "huge_f32.wav": "out_of_scale",
    "ima_adpcm.wav": USED,
    "inf_f32.wav": "non_finite",
    "junk_chunk_before_data.wav": USED,
    "long_180s.opus": USED,
    "long_30min_silence.flac": "silent",
    "long_65s.flac": USED,
    "mp3_named.wav": USED,
    "ms_adpcm.wav": USED,
    "nan_all_f32.wav": "non_finite",
    "nan_f32.wav": "non_finite",
    "neg_inf_f32.wav": "non_finite",
    "no_extension": USED,
    "one_lsb.wav": "silent",
    "one_sample.wav": "silent",  # nothing is left of it after its mean
    "over_unity_f32.wav": USED,
    "pcm24.wav": USED,
    "pcm32.wav": USED,
    "random_bytes.wav": "unreadable",
    "rate_11025.wav": USED,
    "rate_15999.wav": USED,
    "rate_22050.wav": USED,
    "rate_44100.wav": USED,
    "rate_48000.wav": USED,
    "rate_8000.wav": USED,
    "rate_96000.wav": USED,
    "real_corrupt_127.flac": "unreadable",
    "real_corrupt_128.flac": "unreadable",
    "rf64.wav": USED,
    "short_0.01s.wav": USED,
    "short_0.05s.wav": USED,
    "short_0.1s.wav": USED,
    "short_399.wav": USED,
    "short_400.wav": USED,
    "silence_then_speech.wav": USED,
    "single_click.wav": USED,
    "six_channels.wav": USED,
    "square_full_scale.wav": USED,
    "stereo.wav": USED,
    "stereo_antiphase.wav": "silent",
    "stereo_right_silent.wav": USED,
    "text_named.wav": "unreadable",
    "tiny_f32.wav": "silent",
    "trailing_garbage.wav": USED,
    "truncated.flac": "unreadable",
    "truncated.mp3": USED,
    "truncated.wav": USED,
    "truncated_header.flac": "unreadable",
    "truncated_header.wav": "unreadable",
    "truncated_mid_sample.wav": USED,
    "u8.wav": USED,
    "ulaw_8k.wav": USED,
    "w64.w64": USED,
    "wav_named.flac": USED,
    "zero_bytes.flac": "unreadable",
    "zero_bytes.wav": "unreadable",
    "zero_channels.wav": "unreadable",
    "zero_rate.wav": "unreadable",
    "zero_samples.flac": "unreadable",  # zero bytes, too
}
# with the duration that manifests/all_bad_audio.json states, where that changes the outcome
STATED = REASONS | {"truncated.flac": USED}  # its first two seconds are there
NOT_USED_THOUGH_VALID = {
    "header_only.wav": "empty",
    "long_30min_silence.flac": "silent",
    "stereo_antiphase.wav": "silent",
}


@pytest.fixture
def bad_audio(shared_data) -> Path:
    return shared_data / "bad" / "audio"


def listed(shared_data: Path, manifest: str) -> dict[str, float]:
    """File names of a manifest, and their stated durations in seconds."""
    lines = (shared_data / "bad" / "manifests" / manifest).read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return {Path(entry["audio_filepath"]).name: entry["duration"] for entry in entries}


def outcome(source: object, **options) -> str:
    """USED or a reason; what is used must be fit to be trained on."""
    try:
        samples = load_audio(source, RATE, **options)
    except BadAudio as error:
        assert str(error), "a reason without a detail"
        return error.reason
    assert samples.dtype == np.float32 and samples.ndim == 1 and samples.flags.writeable
    assert np.isfinite(samples).all() and np.ptp(samples) > 0
    return USED


def test_the_table_has_every_hostile_file(bad_audio):
    assert set(REASONS) == {path.name for path in bad_audio.iterdir()}


@pytest.mark.parametrize("name", REASONS)
def test_a_hostile_file_is_used_or_rejected_for_its_reason(bad_audio, name):
    assert outcome(bad_audio / name) == REASONS[name]


@pytest.mark.parametrize("name", sorted(set(REASONS) - {"directory.wav"}))
def test_a_tar_member_has_the_outcome_of_the_file(bad_audio, name):
    assert outcome(io.BytesIO((bad_audio / name).read_bytes())) == REASONS[name]


def test_every_valid_format_is_used(shared_data, bad_audio):
    outcomes = {
        name: outcome(bad_audio / name, duration=duration)
        for name, duration in listed(shared_data, "valid_formats.json").items()
    }
    assert {name: reason for name, reason in outcomes.items() if reason} == NOT_USED_THOUGH_VALID
    assert outcome(bad_audio / "stereo_antiphase.wav", channel_selector=0) == USED
    assert outcome(bad_audio / "six_channels.wav", channel_selector=6) == "unreadable"


@pytest.mark.parametrize("name", [name for name, reason in REASONS.items() if reason == USED])
def test_what_is_used_has_the_length_of_its_file(shared_data, bad_audio, name):
    index = (shared_data / "bad" / "index.json").read_text(encoding="utf-8").splitlines()
    known = {entry["file"]: entry for entry in map(json.loads, index)}[f"audio/{name}"]
    samples = load_audio(bad_audio / name, RATE)
    assert len(samples) == math.ceil(known["frames"] * RATE / known["samplerate"])
    late = load_audio(bad_audio / name, RATE, offset=known["duration"] / 2)
    frames = known["frames"] - int(known["duration"] / 2 * known["samplerate"])
    assert len(late) == math.ceil(frames * RATE / known["samplerate"])


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        ("wrong_duration_too_long.json", ["too_short", "too_short"]),
        ("wrong_duration_too_short.json", [USED, USED]),
        ("offset_beyond_end.json", ["bad_entry", "bad_entry", USED]),
        ("offset_plus_duration_beyond_end.json", ["too_short", USED]),  # 2295 of 4591 samples: half a sample short
    ],
)
def test_a_line_that_is_wrong_about_its_file_has_its_reason(shared_data, manifest, expected):
    path = shared_data / "bad" / "manifests" / manifest
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    places = [{"offset": entry.get("offset", 0.0), "duration": entry["duration"]} for entry in entries]
    files = [path.parent / entry["audio_filepath"] for entry in entries]
    assert [outcome(file, **place) for file, place in zip(files, places, strict=True)] == expected


@pytest.mark.parametrize("name", ["long_30min_silence.flac", "long_180s.opus", "huge_claimed_size.wav"])
def test_no_file_takes_more_memory_than_its_samples(bad_audio, name):
    """Peak of what Python and numpy allocate; libsndfile itself holds a frame."""
    seconds = soundfile.info(bad_audio / name).duration
    tracemalloc.start()
    outcome(bad_audio / name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * 4 * RATE * seconds + 10e6


def test_a_pass_over_all_of_them_rejects_each_for_its_reason(shared_data):
    manifest = shared_data / "bad" / "manifests" / "all_bad_audio.json"
    section = {"manifest_filepath": str(manifest), "sample_rate": RATE, "batch_size": 7, "shuffle": True}
    batches = list(audio_noise_dataloader(section))
    names = listed(shared_data, manifest.name)
    assert len(names) == len(REASONS) - 1  # the folder isn't listed
    assert sum(batch.turns for batch in batches) == len(names) == 77
    assert [len(batch) for batch in batches] == 11 * [7]  # another utterance takes the place of a rejected one
    rejected = [(Path(bad.path).name, bad.reason) for batch in batches for bad in batch.rejected]
    assert sorted(rejected) == sorted((name, STATED[name]) for name in names if STATED[name])
    assert all(batch.audio.isfinite().all() for batch in batches)


def test_as_noise_they_are_used_unless_they_would_break_the_mix(shared_data, bad_audio):
    for name, duration in listed(shared_data, "all_bad_audio.json").items():
        entry = {"audio_filepath": str(bad_audio / name), "duration": duration}
        try:
            noise, noise_len = load_noise_audio(entry, RATE, 5 * RATE, pad_to_max=False, rng=np.random.default_rng(0))
        except BadAudio as error:
            assert error.reason == STATED[name] != "silent"
        else:
            assert STATED[name] in (USED, "silent"), name  # silence becomes faint white noise, as in NeMo
            assert noise.isfinite().all() and noise.any() and len(noise) == noise_len
