import json
import pickle
import re

import numpy as np
import pytest
import soundfile

from parts.preprocessing.perturb import (
    AUGMENTATIONS,
    NOT_SUPPORTED,
    Augmentor,
    add_noise,
    amplify,
    build_augmentor,
    reverberate,
    shift_earlier,
    white_noise,
)
from parts.preprocessing.segment import resample

RATE = 16000
PATH = "model.train_ds.augmentor"
OPTIONS = {  # where an augmentation needs more than prob: the manifest of the fixture
    "noise": {"manifest_path": "noise.json"},
    "impulse": {"manifest_path": "rooms.json"},
}


@pytest.fixture
def speech():
    return (0.1 * np.random.default_rng(1).standard_normal(4000)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory: noises of 0.1 s and 1 s, and a room whose strongest path comes 5 samples late."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    room = np.zeros(400)
    room[[2, 5, 300]] = 0.2, -0.8, 0.4
    files = {"noise.json": {"n0.wav": 0.3 * rng.standard_normal(1600), "n1.wav": 0.02 * rng.standard_normal(RATE)}}
    files["rooms.json"] = {"room.wav": room}
    for manifest, audio in files.items():
        for name, samples in audio.items():
            soundfile.write(name, samples, RATE, subtype="FLOAT")
        lines = [json.dumps({"audio_filepath": name, "duration": len(x) / RATE}) for name, x in audio.items()]
        (tmp_path / manifest).write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def build(name, **options):
    return build_augmentor({name: {"prob": 1.0} | OPTIONS.get(name, {}) | options}, RATE, PATH)


def read(name):
    return soundfile.read(name, dtype="float32")[0]


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_changes_audio_follows_its_generator_and_can_be_sent_to_a_worker(name, speech, folder):
    augmentor = build(name)
    before = speech.copy()
    changed, again = augmentor(speech, np.random.default_rng(3)), build(name)(speech, np.random.default_rng(3))
    other = pickle.loads(pickle.dumps(augmentor))(speech, np.random.default_rng(3))
    assert changed.dtype == np.float32 and not np.array_equal(changed, before)
    assert np.array_equal(changed, again) and np.array_equal(changed, other) and np.array_equal(speech, before)
    assert len(changed) == len(speech) or name == "speed"


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_silence_stays_finite(name, folder):
    assert np.isfinite(build(name)(np.zeros(2000, np.float32), np.random.default_rng(0))).all()


@pytest.mark.parametrize("config", [None, {}, {"gain": {"prob": 0.0}}])
def test_nothing_configured_or_drawn_leaves_the_audio_alone(config, speech):
    assert np.array_equal(build_augmentor(config, RATE, PATH)(speech, np.random.default_rng(0)), speech)


def test_each_augmentation_is_applied_with_its_own_probability(speech):
    augmentor = build_augmentor(
        {
            "gain": {"prob": 0.25, "min_gain_dbfs": 6, "max_gain_dbfs": 6},
            "shift": {"prob": 0.5, "min_shift_ms": 10, "max_shift_ms": 10},
        },
        RATE,
        PATH,
    )
    rng = np.random.default_rng(0)
    outputs = [augmentor(speech, rng) for _ in range(2000)]
    shifted = np.array([not x[-160:].any() for x in outputs])
    amplified = np.array([np.abs(x[:1000]).max() > 1.5 * np.abs(speech).max() * 0.8 for x in outputs])
    assert abs(shifted.mean() - 0.5) < 0.034 and abs(amplified.mean() - 0.25) < 0.03  # 3 standard deviations
    assert abs((shifted & amplified).mean() - 0.125) < 0.023


def test_gain_is_uniform_in_db(speech):
    augmentor, rng = build("gain", min_gain_dbfs=-20, max_gain_dbfs=4), np.random.default_rng(0)
    gains = 20 * np.log10([augmentor(speech, rng)[0] / speech[0] for _ in range(3000)])
    counts, _ = np.histogram(gains, bins=6, range=(-20, 4))
    assert counts.sum() == 3000 and abs(counts - 500).max() < 70  # 3.4 standard deviations
    np.testing.assert_allclose(amplify(speech, 20.0), 10 * speech, rtol=1e-6)


def test_speed_takes_one_of_the_rates_and_resamples_by_it(speech):
    augmentor, rng = build("speed", min_speed_rate=0.8, max_speed_rate=1.2, num_rates=3), np.random.default_rng(0)
    outputs = [augmentor(speech, rng) for _ in range(300)]
    lengths, counts = np.unique([len(x) for x in outputs], return_counts=True)
    assert lengths.tolist() == [3200, 4000, 4800] and abs(counts - 100).max() < 28
    slowest = next(x for x in outputs if len(x) == 4800)
    assert np.array_equal(slowest, resample(speech, RATE, 19200))


@pytest.mark.parametrize("num_rates", [0, -1])
def test_speed_without_a_number_of_rates_takes_any_between_the_bounds(speech, num_rates):
    augmentor, rng = build("speed", num_rates=num_rates), np.random.default_rng(0)
    lengths = [len(augmentor(speech, rng)) for _ in range(200)]
    assert len(set(lengths)) > 100 and min(lengths) >= 3600 and max(lengths) <= 4400


def test_white_noise_has_a_whole_number_of_db(speech):
    augmentor, rng = build("white_noise", min_level=-40, max_level=-37), np.random.default_rng(0)
    added = [augmentor(np.zeros(RATE, np.float32), rng) for _ in range(120)]
    levels = np.array([10 * np.log10(np.square(x, dtype=np.float64).mean()) for x in added])
    assert np.abs(levels - levels.round()).max() < 0.25 and set(levels.round()) == {-40, -39, -38}
    assert white_noise(100, -20, -20, rng).dtype == np.float32


@pytest.mark.parametrize("shift_ms", [-300.0, -250.0, -3.1, -0.01, 0.0, 0.01, 3.1, 249.99, 250.0, 300.0])
def test_shift_moves_samples_and_fills_with_zeros(speech, shift_ms):
    shift = int(max(-250, min(250, shift_ms)) * RATE // 1000)
    expected = [speech[i + shift] if 0 <= i + shift < len(speech) else 0.0 for i in range(len(speech))]
    assert np.array_equal(shift_earlier(speech, shift_ms, RATE), np.array(expected, np.float32))


def test_shift_draws_between_its_bounds(speech):
    augmentor, rng = build("shift", min_shift_ms=-2, max_shift_ms=1), np.random.default_rng(0)
    click = np.zeros(400, np.float32)
    click[200] = 1.0
    places = np.array([augmentor(click, rng).argmax() for _ in range(2000)]) - 200
    assert places.min() == -15 and places.max() == 32 and abs(places.mean() - 8.5) < 1  # 3.2 standard errors


@pytest.mark.parametrize("snr_db", [-7.0, 0.0, 31.0])
def test_noise_has_the_drawn_level_below_the_audio(speech, folder, snr_db):
    augmentor = build("noise", min_snr_db=snr_db, max_snr_db=snr_db)
    short, long = read("n0.wav"), read("n1.wav")
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(20):
        added = (augmentor(speech, rng) - speech).astype(np.float64)
        source = short if np.count_nonzero(np.abs(added) > 1e-7) <= 1600 else long
        scale = np.sqrt(np.square(speech, dtype=np.float64).mean() / np.square(source, dtype=np.float64).mean())
        scale *= 10 ** (-snr_db / 20)
        candidates = np.correlate(np.pad(added, len(source)), source, "valid")
        place = int(candidates.argmax()) - len(source)
        expected = [source[i - place] if 0 <= i - place < len(source) else 0.0 for i in range(len(speech))]
        np.testing.assert_allclose(added, scale * np.array(expected), atol=1e-6)
        kinds.add(len(source))
    assert kinds == {1600, RATE}


def test_noise_starts_anywhere_in_the_longer_of_the_two():
    ramp, zeros = np.arange(1.0, 11.0), np.zeros(10)
    silence, ones = zeros[:4], np.ones(4)
    starts = {add_noise(ones, ramp, start, 0.0, 300.0).argmin() for start in range(7)}
    assert starts == {0} and add_noise(silence, ramp, 0, 0.0, 300.0).tolist() == [0.0] * 4
    mixed = add_noise(np.ones(10), np.full(4, 2.0), 6, 0.0, 300.0)
    assert mixed.tolist() == [1.0] * 6 + [2.0] * 4


def test_noise_is_amplified_by_no_more_than_max_gain_db(speech):
    noise = np.full(len(speech), 1e-3, np.float32)
    np.testing.assert_allclose(add_noise(speech, noise, 0, 0.0, 6.0) - speech, 1e-3 * 10 ** (6 / 20), rtol=1e-3)


def slow_room(samples, impulse, normalize, shift):
    if normalize:
        impulse = (impulse - impulse.mean()) / np.abs(impulse - impulse.mean()).max()
    wet = np.zeros(len(samples) + len(impulse) - 1)
    for i, weight in enumerate(impulse):
        wet[i : i + len(samples)] += weight * samples
    start = np.abs(impulse).argmax() if shift else 0
    wet = wet[start : start + len(samples)]
    return wet / np.abs(wet).max()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("shift", [False, True])
def test_impulse_is_a_convolution_with_a_peak_of_one(speech, folder, normalize, shift):
    expected = slow_room(speech.astype(np.float64), read("room.wav").astype(np.float64), normalize, shift)
    augmentor = build("impulse", normalize_impulse=normalize, shift_impulse=shift)
    np.testing.assert_allclose(augmentor(speech, np.random.default_rng(0)), expected, atol=1e-5)
    np.testing.assert_allclose(reverberate(speech, read("room.wav"), normalize, shift), expected, atol=1e-5)


def test_an_unusable_noise_is_replaced_and_listed(speech, folder):
    (folder / "n1.wav").write_bytes(b"no audio")
    rejected, rng = [], np.random.default_rng(0)
    augmentor = build("noise")
    for _ in range(10):
        assert not np.array_equal(augmentor(speech, rng, rejected), speech)
    assert {bad.reason for bad in rejected} == {"noise_unreadable"} and {bad.line for bad in rejected} == {2}


def test_lines_that_name_no_audio_are_there_to_be_reported(folder):
    for manifest in ("noise.json", "rooms.json"):
        with open(manifest, "a", encoding="utf-8") as lines:
            lines.write("\n{")
    config = {name: {"prob": 0.5} | OPTIONS.get(name, {}) for name in ("gain", "noise", "impulse")}
    found = build_augmentor(config, RATE, PATH).rejected_lines
    assert [(bad.reason, bad.line) for bad in found] == [("noise_bad_entry", 3), ("rir_bad_entry", 2)]
    assert build_augmentor(None, RATE, PATH).rejected_lines == ()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"gian": {"prob": 1.0}}, r"gian is not a known augmentation; did you mean 'gain'"),
        ({"gain": {}}, r"gain\.prob=None is not a share in \[0, 1\]"),
        ({"gain": {"prob": 1.5}}, r"gain\.prob=1\.5 is not a share"),
        ({"gain": {"prob": True}}, r"gain\.prob=True is not a share"),
        ({"gain": 0.5}, r"gain=0\.5 is not a section"),
        ("gain", r"='gain' is not a section"),
        ({"gain": {"prob": 1, "min_gain_db": 1}}, r"gain\.min_gain_db is not .* mean 'min_gain_dbfs'"),
        ({"gain": {"prob": 1, "path": "x"}}, r"gain\.path is not a known config key"),
        ({"gain": {"prob": 1, "min_gain_dbfs": "x"}}, r"gain\.min_gain_dbfs='x' is not a number"),
        ({"gain": {"prob": 1, "min_gain_dbfs": 11}}, r"gain\.min_gain_dbfs=11 is above max_gain_dbfs=10"),
        ({"gain": {"prob": 1, "rng": 3}}, r"gain\.rng=3 is not supported: every draw follows"),
        ({"speed": {"prob": 1, "sr": 8000}}, r"speed\.sr=8000 is not the sample_rate=16000"),
        ({"speed": {"prob": 1, "resample_type": "kaiser"}}, r"speed\.resample_type='kaiser' .* mean 'kaiser_"),
        ({"speed": {"prob": 1, "min_speed_rate": 0}}, r"speed\.min_speed_rate=0 must be above 0"),
        ({"speed": {"prob": 1, "num_rates": 2.5}}, r"speed\.num_rates=2\.5 is not a whole number"),
        ({"white_noise": {"prob": 1, "min_level": -46.5}}, r"white_noise\.min_level=-46\.5 is not a whole number"),
        ({"noise": {"prob": 1}}, r"noise\.manifest_path is not set; give a noise manifest$"),
        (
            {"noise": {"prob": 1, "manifest_path": "none.json"}},
            r"noise\.manifest_path: .*none\.json.*correct the path$",
        ),
        ({"impulse": {"prob": 1}}, r"impulse\.manifest_path is not set; give a room impulse response manifest$"),
        ({"noise": {"prob": 1, "manifest_path": "noise.json", "shuffle_n": 7}}, r"noise\.shuffle_n=7 has no"),
        ({"noise": {"prob": 1, "manifest_path": "noise.json", "orig_sr": 8000}}, r"noise\.orig_sr=8000 has no"),
        (
            {"impulse": {"prob": 1, "audio_tar_filepaths": ["a.tar"]}},
            r"impulse\.audio_tar_filepaths=\['a\.tar'\] is not",
        ),
        (
            {"impulse": {"prob": 1, "manifest_path": "rooms.json", "shift_impulse": 1}},
            r"impulse\.shift_impulse=1 is not true or",
        ),
        *(({name: {"prob": 1.0}}, rf"{name} is not supported; ") for name in NOT_SUPPORTED),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(config, message, folder):
    with pytest.raises((ValueError, FileNotFoundError), match=rf"^{re.escape(PATH)}\.?{message}[^\n]*$"):
        build_augmentor(config, RATE, PATH)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_nemos_arguments_are_taken_at_nemos_defaults(name, folder):
    extra = {"noise": {"audio_tar_filepaths": None, "shuffle_n": 100, "orig_sr": RATE}}
    extra |= {"impulse": {"audio_tar_filepaths": None, "shuffle_n": 128}, "speed": {"sr": RATE, "resample_type": "fft"}}
    assert isinstance(build(name, rng=None, **extra.get(name, {})), Augmentor)
