import json
import pickle

import numpy as np
import pytest
import soundfile

from parts.preprocessing.reverberation import RoomImpulseResponses

RATE = 16000


@pytest.fixture
def speech():
    return (0.1 * np.random.default_rng(1).standard_normal(4000)).astype(np.float32)


@pytest.fixture
def make_rooms(tmp_path):
    """make_rooms({"a.wav": samples, ...}, prob, rate) -> RoomImpulseResponses over these files."""

    def make(files, prob=1.0, rate=RATE):
        for name, samples in files.items():
            soundfile.write(tmp_path / name, samples, rate, subtype="FLOAT")
        return over(files, prob)

    def over(names, prob=1.0):
        lines = [json.dumps({"audio_filepath": name}) for name in names]
        (tmp_path / "rir.json").write_text("\n".join(lines), encoding="utf-8")
        return RoomImpulseResponses(str(tmp_path / "rir.json"), prob, RATE, "model.train_ds")

    make.over = over
    return make


def room(*paths, length=1000):
    impulse = np.zeros(length)
    for delay, strength in paths:
        impulse[delay] = strength
    return impulse


def slow_room(samples, impulse):
    """Every path on its own, timed from the strongest one; then the energy of before."""
    direct = np.abs(impulse).argmax()
    wet = np.zeros(len(samples))
    for delay, strength in enumerate(impulse):
        for i in range(len(samples)) if strength else ():
            if 0 <= i - (delay - direct) < len(samples):
                wet[i] += strength * samples[i - (delay - direct)]
    return wet * np.sqrt(np.square(samples, dtype=np.float64).sum() / np.square(wet).sum())


def test_the_noisy_audio_is_convolved_from_the_strongest_path_on(make_rooms, speech):
    impulse = room((37, 0.1), (40, -0.9), (300, 0.5), (999, 0.2))
    wet = make_rooms({"a.wav": impulse})(speech, np.random.default_rng(0))
    assert wet.dtype == np.float32 and wet.shape == speech.shape
    np.testing.assert_allclose(wet, slow_room(speech, impulse), atol=2e-6)


@pytest.mark.parametrize("delay", [0, 1, 250])
@pytest.mark.parametrize("strength", [1.0, 0.01, 5.0])
def test_a_room_with_one_path_changes_nothing_whatever_its_delay_and_level(make_rooms, speech, delay, strength):
    wet = make_rooms({"a.wav": room((delay, strength))})(speech, np.random.default_rng(0))
    np.testing.assert_allclose(wet, speech, atol=1e-6)


@pytest.mark.parametrize("length", [1, 7, 4000])
def test_length_and_energy_stay(make_rooms, speech, length):
    rooms = make_rooms({"a.wav": np.random.default_rng(0).standard_normal(3000) * np.exp(-np.arange(3000) / 500)})
    wet = rooms(speech[:length], np.random.default_rng(0))
    assert wet.shape == (length,)
    np.testing.assert_allclose(np.square(wet).sum(), np.square(speech[:length]).sum(), rtol=1e-5)


def test_silence_stays_silence(make_rooms):
    wet = make_rooms({"a.wav": room((3, 1.0), (9, 0.5))})(np.zeros(100, np.float32), np.random.default_rng(0))
    assert not wet.any()


def test_an_impulse_response_at_another_sample_rate_is_resampled(make_rooms, speech):
    smooth = np.convolve(speech, np.hanning(32), "same").astype(np.float32)
    at_48k, at_16k = room((480, 1.0), (4800, 0.5), length=6000), room((160, 1.0), (1600, 0.5), length=2000)
    wet = make_rooms({"a.wav": at_48k}, rate=48000)(smooth, np.random.default_rng(0))
    np.testing.assert_allclose(wet, slow_room(smooth, at_16k), atol=0.02 * np.abs(smooth).max())


def test_one_channel_is_drawn(make_rooms, speech):
    channels = np.stack([room((5, 1.0), (100 + 50 * c, 0.9)) for c in range(3)], axis=1)
    rooms = make_rooms({"a.wav": channels})
    expected = [slow_room(speech, channels[:, c]) for c in range(3)]
    drawn = []
    for seed in range(30):
        wet = rooms(speech, np.random.default_rng(seed))
        distances = [np.abs(wet - x).max() for x in expected]
        assert min(distances) < 2e-6
        drawn.append(int(np.argmin(distances)))
    assert set(drawn) == {0, 1, 2}


def test_prob_is_the_share_of_items_that_are_put_into_a_room(make_rooms, speech):
    rooms, rng = make_rooms({"a.wav": room((5, 1.0), (100, 0.9))}, prob=0.3), np.random.default_rng(0)
    changed = [not np.array_equal(rooms(speech, rng), speech) for _ in range(1000)]
    assert abs(np.mean(changed) - 0.3) < 0.045  # 3 standard deviations


def test_the_generator_decides_also_in_another_process(make_rooms, speech):
    rooms = make_rooms({f"{i}.wav": room((5, 1.0), (100 + i, 0.9)) for i in range(9)})
    copy = pickle.loads(pickle.dumps(rooms))
    one, two = (x(speech, np.random.default_rng(4)) for x in (rooms, copy))
    assert np.array_equal(one, two) and not np.array_equal(one, rooms(speech, np.random.default_rng(5)))


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (b"no audio", "rir_unreadable"),
        (np.zeros(0), "rir_empty"),
        (np.full(99, np.nan), "rir_non_finite"),
        (np.zeros(99), "rir_silent"),
    ],
)
def test_an_unusable_impulse_response_is_replaced_and_listed(make_rooms, tmp_path, speech, samples, reason):
    make_rooms({"good.wav": room((5, 1.0), (100, 0.9))})
    if isinstance(samples, bytes):
        (tmp_path / "bad.wav").write_bytes(samples)
    else:
        soundfile.write(tmp_path / "bad.wav", samples, RATE, subtype="FLOAT")
    rooms, rejected, rng = make_rooms.over(["bad.wav", "good.wav"]), [], np.random.default_rng(0)
    for _ in range(10):
        assert not np.array_equal(rooms(speech, rng, rejected), speech)
    assert {(bad.reason, bad.line) for bad in rejected} == {(reason, 1)}


def test_without_any_usable_impulse_response_the_audio_stays(make_rooms, tmp_path, speech):
    rejected = []
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    assert np.array_equal(make_rooms.over(["bad.wav"])(speech, np.random.default_rng(0), rejected), speech)
    assert [bad.reason for bad in rejected] == ["rir_unreadable"] * 20


def test_lines_that_name_no_room_are_there_to_be_reported(make_rooms, tmp_path):
    make_rooms({"good.wav": room((5, 1.0))})
    (tmp_path / "m.json").write_text('{"audio_filepath": "good.wav"}\n{', encoding="utf-8")
    (bad,) = RoomImpulseResponses(str(tmp_path / "m.json"), 0.5, RATE).rejected_lines
    assert (bad.reason, bad.line) == ("rir_bad_entry", 2)
    assert RoomImpulseResponses(None, 0.5, RATE).rejected_lines == ()


def test_every_shared_impulse_response_can_be_used(shared_data, speech):
    rooms, rejected = RoomImpulseResponses(str(shared_data / "manifests" / "rir.json"), 1.0, RATE), []
    click = np.zeros(RATE, np.float32)
    click[4000] = 1.0
    rng = np.random.default_rng(0)
    for _ in range(20):
        wet = rooms(click, rng, rejected)
        assert wet.shape == click.shape and abs(int(np.abs(wet).argmax()) - 4000) <= 0
    assert not rejected


@pytest.mark.parametrize("prob", [-0.1, 1.1, None, "x"])
def test_a_probability_is_checked(prob):
    with pytest.raises(ValueError, match=rf"^model\.train_ds\.rir_prob={prob!r} is not in \[0, 1\]"):
        RoomImpulseResponses(None, prob, RATE, "model.train_ds")


def test_without_a_manifest_there_is_no_room():
    samples = np.ones(5, np.float32)
    assert RoomImpulseResponses(None, 1.0, RATE)(samples, np.random.default_rng(0)) is samples


def test_a_missing_manifest_is_an_error_that_names_its_key():
    with pytest.raises(FileNotFoundError, match=r"model\.train_ds\.rir_manifest"):
        RoomImpulseResponses("none.json", 0.5, RATE, "model.train_ds")
