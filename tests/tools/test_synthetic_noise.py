import numpy as np
import pytest

from tools.synthetic_noise import NOISES, make_noise

RATE = 16000


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("seconds", [1.0, 3.21])
def test_noise_has_the_length_that_was_asked_for_and_does_not_clip(kind, seconds):
    noise = make_noise(kind, seconds, RATE, np.random.default_rng(0))
    assert noise.shape == (round(seconds * RATE),)
    assert noise.dtype == np.float32
    assert 0.2 <= np.abs(noise).max() <= 0.7


@pytest.mark.parametrize("kind", NOISES)
def test_noise_depends_on_the_random_numbers_alone(kind):
    first, again, other = (make_noise(kind, 1.0, RATE, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other, atol=0.01)


def test_pink_noise_has_more_power_low_down_than_white_noise():
    def low_share(kind: str) -> float:
        power = np.abs(np.fft.rfft(make_noise(kind, 4.0, RATE, np.random.default_rng(0)))) ** 2
        return power[: len(power) // 8].sum() / power.sum()

    assert low_share("white") == pytest.approx(1 / 8, abs=0.02)
    assert low_share("pink") > 0.5


def test_hum_stands_at_multiples_of_the_mains():
    noise = make_noise("hum", 4.0, RATE, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(noise)) ** 2
    assert np.fft.rfftfreq(len(noise), 1 / RATE)[power.argmax()] in (50.0, 60.0)


def test_knocks_stand_out_of_near_silence():
    noise = make_noise("knocks", 4.0, RATE, np.random.default_rng(0))
    assert np.abs(noise).max() > 20 * np.median(np.abs(noise))
