import math

import librosa
import numpy as np
import pytest

from parts.preprocessing.mel import MEL_SCALES, mel_filterbank


@pytest.mark.parametrize("scale", MEL_SCALES)
@pytest.mark.parametrize("norm", ["slaney", 1, 2, math.inf, None])
@pytest.mark.parametrize("sample_rate, n_fft, low_hz, high_hz", [(16000, 512, 0, None), (22050, 601, 125.5, 7600)])
def test_filters_are_those_of_librosa(scale, norm, sample_rate, n_fft, low_hz, high_hz):
    ours = mel_filterbank(
        sample_rate=sample_rate, n_fft=n_fft, num_filters=40, low_hz=low_hz, high_hz=high_hz, norm=norm, scale=scale
    )
    theirs = librosa.filters.mel(
        sr=sample_rate, n_fft=n_fft, n_mels=40, fmin=low_hz, fmax=high_hz, norm=norm, htk=scale == "htk"
    )
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


def test_filters_without_a_bin_are_reported(caplog):
    with caplog.at_level("WARNING", logger="nest_ssl"):
        filters = mel_filterbank(sample_rate=16000, n_fft=128, num_filters=64)
    empty = int((filters.max(axis=1) == 0).sum())
    assert empty > 0 and f"{empty} of 64 mel filters" in caplog.text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"low_hz": 9000}, "preprocessor.lowfreq=9000"),
        ({"low_hz": -1}, "preprocessor.lowfreq=-1"),
        ({"norm": "area"}, "preprocessor.mel_norm='area'"),
        ({"norm": 3}, "preprocessor.mel_norm=3"),
        ({"scale": "bark"}, "mel scale 'bark'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        mel_filterbank(sample_rate=16000, n_fft=512, num_filters=8, **options)
