import io

import numpy as np
import pytest
import soundfile

from parts.preprocessing.audio_file import BadAudio
from parts.preprocessing.segment import (
    check_channel_selector,
    load_audio,
    normalize_level,
    read_usable,
    resample,
    to_mono,
    trim_silence,
)
from utils.stopwatch import take_seconds

RATE = 16000


@pytest.fixture
def ramp(tmp_path):
    """One second that counts its samples: sample i is i / 16000."""
    path = tmp_path / "ramp.wav"
    soundfile.write(path, np.arange(RATE) / RATE, RATE, subtype="FLOAT")
    return path


@pytest.fixture
def write(tmp_path):
    def write_audio(samples, rate=RATE, name="a.wav"):
        soundfile.write(tmp_path / name, np.asarray(samples, dtype=np.float32), rate, subtype="FLOAT")
        return tmp_path / name

    return write_audio


def reason_of(*args, **options) -> str:
    with pytest.raises(BadAudio) as caught:
        load_audio(*args, **options)
    assert str(caught.value)
    return caught.value.reason


def test_offset_and_duration_choose_a_piece(ramp):
    piece = load_audio(ramp, RATE, offset=0.25, duration=0.125)
    np.testing.assert_array_equal(piece, (np.arange(4000, 6000) / RATE).astype(np.float32))
    assert piece.dtype == np.float32


def test_a_member_of_a_tar_gives_the_samples_of_the_file(ramp):
    member = io.BytesIO(ramp.read_bytes())
    for offset in (0.5, 0.0):  # twice from the same object
        expected = load_audio(ramp, RATE, offset=offset)
        np.testing.assert_array_equal(load_audio(member, RATE, offset=offset), expected)
        member.seek(0)


def test_decoding_and_resampling_are_timed(ramp):
    take_seconds()
    load_audio(ramp, 8000)
    seconds = take_seconds()
    assert set(seconds) == {"decode", "resample"} and min(seconds.values()) > 0


@pytest.mark.parametrize("duration", [None, 0, 1.4])
def test_without_a_duration_or_a_little_beyond_the_end_the_rest_is_read(ramp, duration):
    assert len(load_audio(ramp, RATE, offset=0.25, duration=duration)) == 12000


@pytest.mark.parametrize(("duration", "enough"), [(1.9, True), (2.0, True), (2.001, False), (99.0, False)])
def test_less_than_half_of_the_stated_duration_is_too_short(ramp, duration, enough):
    if enough:
        assert len(load_audio(ramp, RATE, duration=duration)) == RATE
    else:
        assert reason_of(ramp, RATE, duration=duration) == "too_short"


@pytest.mark.parametrize("duration", [1e300, 1e308])
def test_a_duration_beyond_every_integer_is_too_short(ramp, duration):
    assert reason_of(ramp, RATE, duration=duration) == "too_short"


@pytest.mark.parametrize("place", [{"offset": -0.5}, {"offset": np.nan}, {"duration": -1.0}, {"duration": np.nan}])
def test_a_place_that_no_file_has_is_a_bad_entry(ramp, place):
    assert reason_of(ramp, RATE, **place) == "bad_entry"


def test_every_channel_selector_gives_mono(write):
    rng = np.random.default_rng(0)
    channels = rng.uniform(-1, 1, (50, 3)).astype(np.float32)
    path = write(channels)
    expected = {"average": [0, 1, 2], None: [0, 1, 2], 0: [0], 2: [2], (0, 2): [0, 2], (1,): [1]}
    for selector, picked in expected.items():
        mono = load_audio(path, RATE, channel_selector=selector)
        np.testing.assert_array_equal(mono, channels[:, picked].mean(axis=1))  # numpy's own mean, to the bit


@pytest.mark.parametrize("selector", ["average", None, 0, [0]])
def test_one_channel_stays_as_it_is(selector):
    samples = np.linspace(-1, 1, 9, dtype=np.float32)
    np.testing.assert_array_equal(to_mono(samples[:, None], selector), samples)


@pytest.mark.parametrize("selector", ["mean", -1, 0.5, True, [], [0, "1"]])
def test_a_wrong_channel_selector_is_named(selector):
    with pytest.raises(ValueError, match="channel_selector="):
        check_channel_selector(selector)


def test_a_channel_that_is_not_there_is_bad_audio(ramp):
    with pytest.raises(BadAudio, match=r"channel_selector=1 asks for more than the file's 1 channel") as caught:
        load_audio(ramp, RATE, channel_selector=1)
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize(("rate", "num_samples"), [(8000, 2000), (44100, 363), (15999, 1001)])
def test_resampling_rounds_the_length_up_and_keeps_a_tone(rate, num_samples):
    tone = np.sin(2 * np.pi * 440 * np.arange(1000) / rate).astype(np.float32)
    heard = resample(tone, rate, RATE)
    assert len(heard) == num_samples
    expected = np.sin(2 * np.pi * 440 * np.arange(num_samples) / RATE)
    middle = slice(100, num_samples - 100)  # the filter rings at the ends
    np.testing.assert_allclose(heard[middle], expected[middle], atol=2e-2)


@pytest.mark.parametrize("rate", [8000, 15999, 48000, 96000])
@pytest.mark.parametrize("num_samples", [1, 2, 3, 399])
def test_the_shortest_audio_has_its_length_after_resampling(rate, num_samples):
    assert len(resample(np.ones(num_samples, np.float32), rate, RATE)) == -(-num_samples * RATE // rate)


@pytest.mark.slow  # importing librosa's resampling takes seconds
def test_resampling_is_librosas_bit_for_bit():
    librosa = pytest.importorskip("librosa")
    noise = np.random.default_rng(0).standard_normal(4321).astype(np.float32)
    for rate in (8000, 11025, 15999, 44100, 96000):
        expected = librosa.resample(noise, orig_sr=rate, target_sr=RATE)
        np.testing.assert_array_equal(resample(noise, rate, RATE), expected)


def test_trim_cuts_silence_from_both_ends(write):
    speech = np.concatenate([np.zeros(RATE), 0.5 * np.sin(np.arange(RATE // 2)), np.zeros(RATE)])
    path = write(speech)
    assert RATE // 2 <= len(load_audio(path, RATE, trim=True)) < RATE
    assert len(load_audio(path, RATE)) == len(speech)


@pytest.mark.slow  # importing librosa's effects takes a second
def test_trimming_is_librosas():
    librosa = pytest.importorskip("librosa")
    rng = np.random.default_rng(0)
    for trial in range(200):
        loud = rng.standard_normal(rng.integers(1, 6000)) * 10.0 ** rng.uniform(-4, 0)
        quiet = [rng.standard_normal(rng.integers(0, 6000)) * 10.0 ** rng.uniform(-9, -3) for _ in range(2)]
        samples = np.concatenate([quiet[0], loud, quiet[1]]).astype(np.float32)
        expected, _ = librosa.effects.trim(samples, top_db=60, frame_length=2048, hop_length=512)
        np.testing.assert_array_equal(trim_silence(samples), expected, err_msg=str(trial))


def test_int_values_clip_a_float_file_at_full_scale(write):
    path = write([0.25, 1.5, -1.5])
    np.testing.assert_allclose(load_audio(path, RATE, int_values=True), [0.25, 1.0, -1.0])
    np.testing.assert_allclose(load_audio(path, RATE), [0.25, 1.5, -1.5])


def test_normalize_db_sets_the_level_and_leaves_silence(write):
    path = write(0.3 * np.sin(np.arange(1600)))
    rms = np.sqrt(np.square(load_audio(path, RATE, normalize_db=-20.0)).mean())
    assert rms == pytest.approx(0.1, rel=1e-4)
    np.testing.assert_array_equal(normalize_level(np.zeros(5, np.float32), -20.0), np.zeros(5))


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([], "empty"),
        ([0, np.nan], "non_finite"),
        ([0, -np.inf], "non_finite"),
        ([np.inf, np.inf], "non_finite"),
        ([0, 1e30], "out_of_scale"),
        ([0, -100.1], "out_of_scale"),
        ([0, 0], "silent"),
        ([0.5, 0.50019], "silent"),
        ([3e-5, -9e-5], "silent"),
        ([0.5], "silent"),
    ],
)
def test_samples_that_would_break_a_loss_or_teach_nothing_are_refused(write, samples, reason):
    assert reason_of(write(samples), RATE) == reason


@pytest.mark.parametrize("samples", [[0, 100.0], [0, -99.9], [0.5, 0.50021], [1e-3, -1e-3]])
def test_what_is_just_within_the_bounds_is_used(write, samples):
    np.testing.assert_array_equal(load_audio(write(samples), RATE), np.asarray(samples, np.float32))


@pytest.mark.filterwarnings("error")  # numpy's warnings of overflow would come once per file
def test_channels_whose_sum_overflows_are_refused_quietly(write):
    assert reason_of(write([[3e38, 3e38], [0, 0]]), RATE) == "non_finite"
    assert reason_of(write([[np.inf, -np.inf], [0, 0]]), RATE) == "non_finite"


def test_only_the_piece_that_is_used_is_judged(write):
    path = write([np.nan, 0.1, -0.1, 1e30, 0, 0])
    np.testing.assert_allclose(load_audio(path, RATE, offset=1.5 / RATE, duration=2.5 / RATE), [0.1, -0.1])
    assert reason_of(path, RATE, duration=3.5 / RATE) == "non_finite"
    assert reason_of(path, RATE, offset=2.5 / RATE) == "out_of_scale"
    assert reason_of(path, RATE, offset=4.5 / RATE) == "silent"


def test_only_the_channel_that_is_used_is_judged(write):
    path = write([[0.1, np.nan, -0.1], [-0.1, np.nan, 0.1]])
    np.testing.assert_allclose(load_audio(path, RATE, channel_selector=0), [0.1, -0.1])
    assert reason_of(path, RATE, channel_selector=1) == "non_finite"
    assert reason_of(path, RATE, channel_selector=[0, 2]) == "silent"


def test_silence_is_given_to_who_allows_it(write):
    path = write([0, 1e-6, 0])
    np.testing.assert_array_equal(load_audio(path, RATE, allow_silent=True), np.float32([0, 1e-6, 0]))
    assert reason_of(write([0, np.nan]), RATE, allow_silent=True) == "non_finite"


def test_a_watcher_sees_the_channels_of_the_piece(write):
    channels = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    seen = []
    mono, rate = read_usable(write(channels, rate=8000), offset=10 / 8000, channel_selector=1, watch=seen.append)
    np.testing.assert_array_equal(np.concatenate(seen), channels[10:])
    np.testing.assert_array_equal(mono, channels[10:, 1])
    assert rate == 8000


def test_silence_is_refused_before_it_is_resampled(write, monkeypatch):
    monkeypatch.setattr("parts.preprocessing.segment.resample", None)
    assert reason_of(write(np.zeros(800), rate=8000), RATE) == "silent"


def test_a_mistake_in_a_call_is_no_bad_audio(ramp):
    with pytest.raises(TypeError):
        load_audio(ramp, RATE, offset="0.5")
    with pytest.raises(TypeError):
        load_audio(None, RATE)
