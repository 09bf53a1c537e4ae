import numpy as np
import pytest
import soundfile

from parts.preprocessing.segment import (
    BadAudio,
    check_channel_selector,
    header_seconds,
    load_audio,
    normalize_level,
    resample,
    to_mono,
)

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


def test_offset_and_duration_choose_a_piece(ramp):
    piece = load_audio(ramp, RATE, offset=0.25, duration=0.125)
    np.testing.assert_array_equal(piece, (np.arange(4000, 6000) / RATE).astype(np.float32))
    assert piece.dtype == np.float32


@pytest.mark.parametrize("duration", [None, 0, 99.0])
def test_without_a_duration_or_beyond_the_end_the_rest_is_read(ramp, duration):
    assert len(load_audio(ramp, RATE, offset=0.25, duration=duration)) == 12000


def test_every_channel_selector_gives_mono(write):
    path = write(np.stack([np.full(50, 0.1), np.full(50, 0.2), np.full(50, 0.6)], axis=1))
    expected = {"average": 0.3, None: 0.3, 0: 0.1, 2: 0.6, (0, 2): 0.35, (1,): 0.2}
    for selector, level in expected.items():
        np.testing.assert_allclose(load_audio(path, RATE, channel_selector=selector), np.full(50, level), rtol=1e-6)


@pytest.mark.parametrize("selector", ["average", None, 0, [0]])
def test_mono_stays_mono(selector):
    samples = np.linspace(-1, 1, 9, dtype=np.float32)
    np.testing.assert_array_equal(to_mono(samples, selector), samples)


@pytest.mark.parametrize("selector", ["mean", -1, 0.5, True, [], [0, "1"]])
def test_a_wrong_channel_selector_is_named(selector):
    with pytest.raises(ValueError, match="channel_selector="):
        check_channel_selector(selector)


def test_a_channel_that_is_not_there_is_bad_audio(ramp):
    with pytest.raises(BadAudio, match="channel_selector=1"):
        load_audio(ramp, RATE, channel_selector=1)


@pytest.mark.parametrize(("rate", "num_samples"), [(8000, 2000), (44100, 363), (15999, 1001)])
def test_resampling_rounds_the_length_up_and_keeps_a_tone(rate, num_samples):
    tone = np.sin(2 * np.pi * 440 * np.arange(1000) / rate).astype(np.float32)
    heard = resample(tone, rate, RATE)
    assert len(heard) == num_samples
    expected = np.sin(2 * np.pi * 440 * np.arange(num_samples) / RATE)
    middle = slice(100, num_samples - 100)  # the filter rings at the ends
    np.testing.assert_allclose(heard[middle], expected[middle], atol=2e-2)


@pytest.mark.slow  # importing librosa's resampling takes seconds
def test_resampling_is_librosas_bit_for_bit():
    librosa = pytest.importorskip("librosa")
    noise = np.random.default_rng(0).standard_normal(4321).astype(np.float32)
    for rate in (8000, 11025, 15999, 44100, 96000):
        expected = librosa.resample(noise, orig_sr=rate, target_sr=RATE)
        np.testing.assert_array_equal(resample(noise, rate, RATE), expected)


def test_trim_cuts_silence_from_both_ends(write):
    speech = np.concatenate([np.zeros(RATE), np.full(RATE // 2, 0.5), np.zeros(RATE)])
    path = write(speech)
    assert RATE // 2 <= len(load_audio(path, RATE, trim=True)) < RATE
    assert len(load_audio(path, RATE)) == len(speech)


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
    [([], "empty"), ([0, np.nan], "non_finite"), ([0, -np.inf], "non_finite"), ([0, 1e30], "out_of_scale")],
)
def test_samples_that_would_break_a_loss_are_refused(write, samples, reason):
    with pytest.raises(BadAudio) as caught:
        load_audio(write(samples), RATE)
    assert caught.value.reason == reason


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not audio at all", None])
def test_what_is_no_audio_is_unreadable(tmp_path, content):
    path = tmp_path / "x.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadAudio) as caught:
        load_audio(path, RATE)
    assert caught.value.reason == "unreadable"
    assert header_seconds(path) is None


def test_a_path_that_is_not_utf8_is_unreadable():
    with pytest.raises(BadAudio) as caught:
        load_audio("\udc80.wav", RATE)
    assert caught.value.reason == "unreadable"


def test_more_samples_than_memory_holds_are_unreadable(ramp, monkeypatch):
    def read(file, frames, dtype):
        raise MemoryError("Unable to allocate 256. GiB")

    monkeypatch.setattr(soundfile.SoundFile, "read", read)
    with pytest.raises(BadAudio, match="256") as caught:
        load_audio(ramp, RATE)
    assert caught.value.reason == "unreadable"


def test_a_mistake_in_a_call_is_no_bad_audio(ramp):
    with pytest.raises(TypeError):
        load_audio(ramp, RATE, offset="0.5")


@pytest.mark.parametrize("duration", [1e300, 1e308])
def test_a_duration_beyond_every_integer_reads_to_the_end(ramp, duration):
    assert len(load_audio(ramp, RATE, duration=duration)) == RATE


@pytest.mark.parametrize("offset", [1.0, 1e300, 1e308])
def test_an_offset_beyond_the_end_is_a_bad_entry(ramp, offset):
    with pytest.raises(BadAudio, match=r"beyond the end at 1\.000 s") as caught:
        load_audio(ramp, RATE, offset=offset)
    assert caught.value.reason == "bad_entry"


def test_the_header_tells_the_length(ramp):
    assert header_seconds(ramp) == 1.0


NOT_USABLE = {
    "header_only.wav": "empty",
    "headerless_s16le_16k.raw": "unreadable",
    "html_404_named.wav": "unreadable",
    "huge_f32.wav": "out_of_scale",
    "inf_f32.wav": "non_finite",
    "nan_f32.wav": "non_finite",
    "real_corrupt_127.flac": "unreadable",
    "zero_channels.wav": "unreadable",
    "zero_rate.wav": "unreadable",
    "directory.wav": "unreadable",
}
USABLE = ["huge_claimed_size.wav", "six_channels.wav", "rate_15999.wav", "u8.wav", "mp3_named.wav", "w64.w64"]


@pytest.mark.parametrize("name", NOT_USABLE)
def test_hostile_audio_is_refused_for_its_reason(shared_data, name):
    with pytest.raises(BadAudio) as caught:
        load_audio(shared_data / "bad" / "audio" / name, RATE)
    assert caught.value.reason == NOT_USABLE[name]


def test_every_hostile_file_ends_in_samples_or_a_reason(shared_data):
    for path in sorted((shared_data / "bad" / "audio").iterdir()):
        try:
            assert np.isfinite(load_audio(path, RATE, duration=3.0)).all()
        except BadAudio as error:
            assert error.reason in {"unreadable", "empty", "non_finite", "out_of_scale"}, path


@pytest.mark.parametrize("name", USABLE)
def test_odd_but_valid_audio_is_used(shared_data, name):
    samples = load_audio(shared_data / "bad" / "audio" / name, RATE)
    assert samples.ndim == 1 and 0 < len(samples) <= 3 * RATE
