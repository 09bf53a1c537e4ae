import json
import os

import numpy as np
import pytest
import soundfile
import torch

import data.noise
from data.noise import is_silent, load_noise_audio, load_noise_manifest, read_noise_manifest, sample_noise
from parts.preprocessing.audio_file import BadAudio
from parts.preprocessing.segment import load_audio
from utils.stopwatch import take_seconds

RATE = 16000


@pytest.fixture
def ramp(tmp_path):
    """One second whose sample i is (i + 1) / 16001: a crop tells where it was taken."""
    path = tmp_path / "ramp.wav"
    soundfile.write(path, np.arange(1, RATE + 1) / (RATE + 1), RATE, subtype="FLOAT")
    return {"audio_filepath": str(path), "duration": 1.0, "offset": 0.0}


def start_of(noise):
    return round(float(noise[0]) * (RATE + 1)) - 1


def test_a_long_noise_gives_a_random_crop_of_the_asked_length(ramp):
    rng = np.random.default_rng(0)
    crops = [load_noise_audio(ramp, RATE, 4000, rng=rng) for _ in range(200)]
    starts = np.array([start_of(noise) for noise, _ in crops])
    assert all(noise.shape == (4000,) and noise_len == 4000 for noise, noise_len in crops)
    assert starts.min() < 600 and starts.max() > 11400 and abs(starts.mean() - 6000) < 750  # 3 standard errors


def test_a_crop_stays_inside_the_piece_that_the_line_names(ramp):
    rng = np.random.default_rng(0)
    piece = ramp | {"offset": 0.5, "duration": 0.25}
    starts = [start_of(load_noise_audio(piece, RATE, 1600, rng=rng)[0]) for _ in range(50)]
    assert min(starts) >= 8000 and max(starts) <= 8000 + 4000 - 1600


def test_a_short_noise_is_followed_by_zeros_and_its_length_is_its_own(ramp):
    noise, noise_len = load_noise_audio(ramp, RATE, 20000)
    assert noise.shape == (20000,) and noise_len == RATE and noise_len.dtype == torch.int64
    assert start_of(noise) == 0 and not noise[RATE:].any()


def test_without_padding_a_short_noise_keeps_its_length(ramp):
    noise, noise_len = load_noise_audio(ramp, RATE, 20000, pad_to_max=False)
    assert noise.shape == (RATE,) and noise_len == RATE


def test_without_a_length_the_whole_piece_is_loaded(ramp):
    noise, noise_len = load_noise_audio(ramp | {"offset": 0.75, "duration": None}, RATE)
    assert start_of(noise) == 12000 and noise_len == 4000


@pytest.mark.parametrize(("min_db", "max_db"), [(-90, -46), (-30, -20), (-40, -40)])
def test_silence_gets_white_noise_between_the_two_levels(tmp_path, min_db, max_db):
    soundfile.write(tmp_path / "zero.wav", np.zeros(RATE), RATE)
    rng = np.random.default_rng(0)
    sample = {"audio_filepath": str(tmp_path / "zero.wav"), "duration": 1.0}
    levels = []
    for _ in range(60):
        options = {"min_white_noise_db": min_db, "max_white_noise_db": max_db, "max_trial": 1}
        noise, _ = load_noise_audio(sample, RATE, 8000, rng=rng, **options)
        levels.append(10 * np.log10(np.square(noise.numpy(), dtype=np.float64).mean()))
    assert min_db - 0.3 < min(levels) and max(levels) < max(max_db - 1, min_db) + 0.3
    assert np.ptp(levels) > 0.8 * (max_db - min_db - 1)


@pytest.mark.parametrize(("offset", "reads"), [(-0.1, 1), (0.0, 1), (0.1, 1), (None, 7)])
def test_only_silence_is_read_again(tmp_path, monkeypatch, offset, reads):
    """Noise of negative or zero mean is no silence (NeMo 3.0.0 reads it 100 times); offset None: digital silence."""
    monkeypatch.setattr(data.noise, "KEPT_SECONDS", 0.0)
    tone = np.sin(np.arange(RATE)) * 0.01
    path = tmp_path / "n.wav"
    soundfile.write(path, np.zeros(RATE) if offset is None else tone - tone.mean() + offset, RATE, subtype="FLOAT")
    calls = count_reads(monkeypatch)
    load_noise_audio({"audio_filepath": str(path), "duration": 1.0}, RATE, 8000, max_trial=7)
    assert len(calls) == reads


def count_reads(monkeypatch) -> list:
    """Grows with each call of load_audio in data.noise."""
    calls = []

    def counting_load(*args, **options):
        calls.append(args)
        return load_audio(*args, **options)

    monkeypatch.setattr(data.noise, "load_audio", counting_load)
    return calls


def test_a_short_noise_is_decoded_once_and_a_changed_file_again(ramp, tmp_path, monkeypatch):
    calls, rng = count_reads(monkeypatch), np.random.default_rng(0)
    starts = {start_of(load_noise_audio(ramp, RATE, 4000, rng=rng)[0]) for _ in range(20)}
    assert len(calls) == 1 and len(starts) > 10
    load_noise_audio(ramp | {"duration": 0.5}, RATE, 4000, rng=rng)
    assert len(calls) == 2
    soundfile.write(tmp_path / "ramp.wav", np.full(RATE, 0.5), RATE)
    os.utime(tmp_path / "ramp.wav", (1, 1))
    assert load_noise_audio(ramp, RATE, 4000, rng=rng)[0].min() > 0.4 and len(calls) == 3


@pytest.mark.parametrize("num_samples", [4000, 20000])
def test_what_was_kept_does_not_change_what_is_drawn_nor_is_it_changed(ramp, num_samples):
    first, again = (
        load_noise_audio(ramp, RATE, num_samples, pad_to_max=False, rng=np.random.default_rng(1))[0] for _ in "ab"
    )
    assert torch.equal(first, again)
    first.zero_()
    assert again.all()


@pytest.mark.parametrize("kept_seconds", [0.0, 10.0])
@pytest.mark.parametrize("rate", [RATE, 11025])
def test_a_crop_is_the_same_sound_read_by_seeking_or_from_what_is_kept(tmp_path, monkeypatch, kept_seconds, rate):
    sweep = np.sin(np.cumsum(np.linspace(0.01, 0.8, 3 * rate)))
    soundfile.write(tmp_path / "sweep.wav", 0.5 * sweep, rate, subtype="FLOAT")
    sample = {"audio_filepath": str(tmp_path / "sweep.wav"), "duration": 2.5, "offset": 0.25}
    whole = load_audio(sample["audio_filepath"], RATE)
    monkeypatch.setattr(data.noise, "KEPT_SECONDS", kept_seconds)
    rng, starts = np.random.default_rng(0), []
    for _ in range(30):
        noise, noise_len = load_noise_audio(sample, RATE, 6000, rng=rng)
        middle = noise.numpy()[500:5500]  # the ends of a piece that was resampled on its own differ
        starts.append(int(np.correlate(whole, middle, "valid").argmax()) - 500)
        found = whole[starts[-1] + 500 : starts[-1] + 5500]
        assert noise_len >= 5999 and np.corrcoef(found, middle)[0, 1] > 0.97
    assert min(starts) >= 0.25 * RATE - 1 and max(starts) <= 2.75 * RATE - 6000 + 1 and np.ptp(starts) > 20000


def test_silence_is_told_by_power():
    assert is_silent(np.zeros(9, np.float32)) and is_silent(np.full(9, 9e-6, np.float32))
    assert not is_silent(np.full(9, -1.1e-5, np.float32)) and not is_silent(np.array([1e-3, -1e-3], np.float32))


def test_stereo_noise_is_averaged(tmp_path):
    soundfile.write(tmp_path / "st.wav", np.tile([[0.2, 0.4]], (RATE, 1)), RATE, subtype="FLOAT")
    noise, _ = load_noise_audio({"audio_filepath": str(tmp_path / "st.wav"), "duration": 1.0}, RATE, 800)
    torch.testing.assert_close(noise, torch.full((800,), 0.3))


def test_an_unreadable_noise_is_replaced_and_counted(ramp, tmp_path):
    gone = {"audio_filepath": str(tmp_path / "gone.wav"), "duration": 1.0}
    rejected = []
    rng = np.random.default_rng(0)
    noise, noise_len = sample_noise([gone] * 9 + [ramp], RATE, 800, 500, rng=rng, rejected=rejected)
    assert noise.any() and noise_len == 800
    assert rejected and {bad.reason for bad in rejected} == {"noise_unreadable"}
    assert {bad.path for bad in rejected} == {gone["audio_filepath"]}


@pytest.mark.parametrize("max_trial", [1, 20])
def test_after_max_trial_unreadable_noises_there_is_none(tmp_path, max_trial):
    rejected = []
    gone = [{"audio_filepath": str(tmp_path / "gone.wav")}]
    noise, noise_len = sample_noise(gone, RATE, 800, max_trial, rejected=rejected)
    assert not noise.any() and noise.shape == (800,) and noise_len == 800 and len(rejected) == max_trial


def test_without_noise_data_the_noise_is_zeros_of_full_length():
    noise, noise_len = sample_noise([], RATE, 321)
    assert noise.shape == (321,) and not noise.any() and noise_len == 321


def test_all_lines_are_drawn_equally_often(ramp):
    lines = [ramp | {"offset": i / 8, "duration": 0.1} for i in range(4)]
    rng = np.random.default_rng(0)
    starts = [start_of(sample_noise(lines, RATE, 1600, rng=rng)[0]) for _ in range(400)]
    counts = np.unique(starts, return_counts=True)[1]
    assert len(counts) == 4 and abs(counts - 100).max() < 30  # 3.5 standard deviations


def test_without_a_generator_numpys_seed_decides(ramp):
    def draw():
        np.random.seed(7)
        return sample_noise([ramp], RATE, 4000)[0]

    assert torch.equal(draw(), draw())


def test_load_noise_manifest_gives_nemos_dicts_with_paths_resolved(tmp_path, ramp):
    manifest = str(tmp_path / "m.json")
    (tmp_path / "m.json").write_text(json.dumps({"audio_filepath": "ramp.wav", "offset": 0.25}), encoding="utf-8")
    (entry,) = load_noise_manifest(manifest)
    place = {"manifest": manifest, "line": 1}
    assert entry == {"audio_filepath": ramp["audio_filepath"], "duration": None, "offset": 0.25} | place
    assert load_noise_manifest([manifest] * 2) == [entry, entry]
    assert load_noise_manifest(None) == [] and len(read_noise_manifest(None)) == 0


def test_a_missing_duration_is_read_from_the_file_so_that_crops_are_random(ramp):
    rng = np.random.default_rng(0)
    starts = [start_of(load_noise_audio(ramp | {"duration": None}, RATE, 4000, rng=rng)[0]) for _ in range(30)]
    assert min(starts) < 3000 and max(starts) > 9000
    late = {"audio_filepath": ramp["audio_filepath"], "offset": 0.5}
    starts = [start_of(load_noise_audio(late, RATE, 4000, rng=rng)[0]) for _ in range(30)]
    assert min(starts) >= 8000 and max(starts) > 10000


def test_a_table_gives_the_same_noise_as_nemos_dicts(tmp_path, ramp):
    lines = [json.dumps({"audio_filepath": "ramp.wav", "duration": 0.1, "offset": i / 8}) for i in range(5)]
    (tmp_path / "m.json").write_text("\n".join(lines), encoding="utf-8")
    table, dicts = read_noise_manifest(str(tmp_path / "m.json")), load_noise_manifest(str(tmp_path / "m.json"))
    for seed in range(8):
        (one, _), (two, _) = (sample_noise(x, RATE, 900, rng=np.random.default_rng(seed)) for x in (table, dicts))
        assert torch.equal(one, two)


def test_noise_is_timed_as_noise_with_its_decoding(ramp):
    take_seconds()
    sample_noise([ramp], RATE, 800)
    assert set(take_seconds()) == {"noise"}


def test_silent_pieces_of_a_noise_are_tried_again(tmp_path):
    sound = np.zeros(4 * RATE)
    sound[-RATE:] = 0.1
    soundfile.write(tmp_path / "n.wav", sound, RATE, subtype="FLOAT")
    sample, rng = {"audio_filepath": str(tmp_path / "n.wav"), "duration": 4.0}, np.random.default_rng(0)
    assert all(load_noise_audio(sample, RATE, 1600, rng=rng)[0].max() > 0.05 for _ in range(20))


def test_an_empty_or_missing_noise_manifest_is_an_error_that_names_the_key(tmp_path):
    (tmp_path / "m.json").write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"model\.train_ds\.noise_manifest: .* has no lines"):
        load_noise_manifest(str(tmp_path / "m.json"))
    with pytest.raises(FileNotFoundError, match=r"model\.train_ds\.noise_manifest: there is no manifest"):
        load_noise_manifest("no.json")


def test_a_noise_file_that_cannot_be_used_raises_its_reason(tmp_path):
    with pytest.raises(BadAudio) as caught:
        load_noise_audio({"audio_filepath": str(tmp_path / "gone.wav")}, RATE, 800)
    assert caught.value.reason == "unreadable"
