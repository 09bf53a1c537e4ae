import pytest
import torch

from data.padding import PAD_AUDIO_MODES, pad_audio


def test_repeat_starts_again_and_zero_appends_zeros():
    audio = torch.tensor([1.0, 2.0, 3.0])
    assert pad_audio(audio, 7, "repeat").tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert pad_audio(audio, 5, "zero").tolist() == [1, 2, 3, 0, 0]


@pytest.mark.parametrize("mode", PAD_AUDIO_MODES)
def test_long_audio_is_left_alone_and_none_becomes_zeros(mode):
    assert pad_audio(torch.ones(5), 5, mode).tolist() == [1] * 5
    assert pad_audio(torch.zeros(0), 3, mode).tolist() == [0] * 3


def test_an_unknown_mode_is_refused_even_for_long_audio():
    with pytest.raises(ValueError, match=r"^pad_audio_mode='loop' is not one of"):
        pad_audio(torch.ones(5), 3, "loop")
