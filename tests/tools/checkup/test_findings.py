import numpy as np
import pytest
import soundfile

from data.noise import load_noise_audio

RATE = 16000


def found(report: dict) -> dict[str, int]:
    return {name: finding["lines"] for name, finding in report["findings"].items() if finding["lines"]}


@pytest.mark.parametrize("peak", [0.0, 1e-6, 1.2e-5, 9e-5, 0.1])
def test_noise_is_called_silent_where_a_run_adds_white_noise_to_it(peak, check, tmp_path):
    samples = np.random.default_rng(0).uniform(-peak, peak, RATE).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", samples, RATE, subtype="FLOAT")
    (tmp_path / "m.json").write_text('{"audio_filepath": "noise.wav", "duration": 1.0}', encoding="utf-8")
    used, _ = load_noise_audio({"audio_filepath": str(tmp_path / "noise.wav"), "duration": 1.0}, RATE)
    _, report = check(tmp_path / "m.json", "--noise")
    assert found(report).get("silent_noise", 0) == (not np.array_equal(used, samples))


def test_speech_is_never_called_silent_noise(check, tmp_path):
    click = np.zeros(20 * RATE)
    click[7] = 0.001  # a mean power of -115 dB
    soundfile.write(tmp_path / "click.wav", click, RATE, subtype="FLOAT")
    (tmp_path / "m.json").write_text('{"audio_filepath": "click.wav", "duration": 20.0}', encoding="utf-8")
    assert "silent_noise" not in found(check(tmp_path / "m.json")[1])
    assert "silent_noise" in found(check(tmp_path / "m.json", "--noise")[1])
