import itertools

import numpy as np
import pytest

from tools.synthetic_speech import (
    CONTROL_SECONDS,
    SOUNDS,
    WORDS,
    Talker,
    filter_moving,
    glottal_pulses,
    make_talker,
    plan_sentence,
    say_something,
    speak,
)

RATE = 16000
TALKER = Talker("t", pitch_hz=120.0, formant_scale=1.0, breathiness=0.05, speed=1.0)


def random_numbers(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def spectrum(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz and power."""
    return np.fft.rfftfreq(len(samples), 1 / RATE), np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2


def power_near(samples: np.ndarray, centre_hz: float, half_width_hz: float = 200.0) -> float:
    frequencies, power = spectrum(samples)
    return power[np.abs(frequencies - centre_hz) < half_width_hz].mean()


@pytest.mark.parametrize("seconds", [1.0, 2.345, 7.0])
@pytest.mark.parametrize("sample_rate", [8000, 16000])
def test_an_utterance_has_the_length_that_was_asked_for_and_does_not_clip(seconds, sample_rate):
    speech, _ = say_something(TALKER, seconds, sample_rate, random_numbers())
    assert speech.shape == (round(seconds * sample_rate),)
    assert speech.dtype == np.float32
    assert 0.25 < np.abs(speech).max() < 1.0


def test_the_words_are_of_the_lexicon_and_most_follow_their_usual_predecessor():
    pairs = []
    for seed in range(20):
        words, _ = plan_sentence(TALKER, 8.0, random_numbers(seed))
        assert set(words) <= set(WORDS)
        pairs += [(WORDS.index(a), WORDS.index(b)) for a, b in itertools.pairwise(words)]
    usual = np.mean([(b - a) % len(WORDS) == 1 for a, b in pairs])
    assert 0.55 < usual < 0.85  # 0.7 by NEXT_WORD: a hidden word can be guessed from its neighbours


def test_every_letter_of_the_lexicon_has_a_sound_and_every_sound_a_word():
    assert set("".join(WORDS)) == set(SOUNDS)


@pytest.mark.parametrize("seconds", [1.0, 6.5])
def test_a_sentence_fills_its_time_and_says_something(seconds):
    for seed in range(20):
        words, sounds = plan_sentence(TALKER, seconds, random_numbers(seed))
        assert words
        assert sum(sound.seconds for sound in sounds) == pytest.approx(seconds)


def test_pulses_repeat_at_the_pitch():
    hop = round(CONTROL_SECONDS * RATE)
    pulses = glottal_pulses(np.full(250, 125.0), hop, random_numbers())
    frequencies, power = spectrum(pulses)
    low = frequencies < 180.0
    assert frequencies[low][power[low].argmax()] == pytest.approx(125.0, abs=2.0)


@pytest.mark.parametrize("vowel", ["a", "e", "i", "o", "u"])
@pytest.mark.parametrize("formant_scale", [0.95, 1.15])
def test_a_vowel_is_loudest_at_its_formants(vowel, formant_scale):
    talker = Talker("t", 100.0, formant_scale, breathiness=0.0, speed=1.0)
    first, second, _ = SOUNDS[vowel][0].formants_hz
    speech = speak(talker, list(SOUNDS[vowel]), RATE, RATE, random_numbers())[2000:-2000]
    between = 0.5 * (second + 3500.0)  # a valley
    assert power_near(speech, first * formant_scale) > 10 * power_near(speech, between * formant_scale)
    assert power_near(speech, second * formant_scale) > power_near(speech, between * formant_scale)


def test_an_s_is_unvoiced_and_loudest_high_up():
    speech = speak(TALKER, list(SOUNDS["s"]), RATE, RATE, random_numbers())[2000:-2000]
    assert power_near(speech, 5800.0) > 30 * power_near(speech, 300.0)


def test_another_talker_sounds_different_and_the_same_one_the_same():
    first = say_something(TALKER, 2.0, RATE, random_numbers(1))[0]
    again = say_something(TALKER, 2.0, RATE, random_numbers(1))[0]
    other = say_something(make_talker("o", random_numbers(5)), 2.0, RATE, random_numbers(1))[0]
    assert np.array_equal(first, again)
    assert not np.allclose(first, other, atol=0.05)


def test_a_flat_envelope_gives_the_source_back():
    hop, frames = 128, 60
    source = random_numbers().standard_normal(hop * frames)
    flat = np.ones((frames, 3 * hop + 1))
    filtered = filter_moving(source, flat, hop)
    inner = slice(4 * hop, -4 * hop)
    np.testing.assert_allclose(filtered[inner], source[inner], atol=1e-12)
