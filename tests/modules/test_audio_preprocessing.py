import inspect
import json

import pytest
import torch
from safetensors.torch import load_file

from modules.audio_preprocessing import (
    AudioToMelSpectrogramPreprocessor,
    AudioToMFCCPreprocessor,
    SpectrogramAugmentation,
)

PREPROCESSORS = [AudioToMelSpectrogramPreprocessor, AudioToMFCCPreprocessor]
LENGTHS = torch.tensor([4000, 2500])


def waveforms() -> torch.Tensor:
    x = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)) * 0.1
    return x * (torch.arange(4000) < LENGTHS[:, None])


def arguments(cls: type) -> list[str]:
    return [name for name, p in inspect.signature(cls).parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]


def test_arguments_stand_in_the_order_of_nemo():
    assert arguments(AudioToMelSpectrogramPreprocessor) == [
        "sample_rate", "window_size", "window_stride", "n_window_size", "n_window_stride", "window", "normalize",
        "n_fft", "preemph", "features", "lowfreq", "highfreq", "log", "log_zero_guard_type", "log_zero_guard_value",
        "dither", "pad_to", "frame_splicing", "exact_pad", "pad_value", "mag_power", "rng", "nb_augmentation_prob",
        "nb_max_freq", "mel_norm", "use_torchaudio", "stft_exact_pad", "stft_conv",
    ]
    assert arguments(AudioToMFCCPreprocessor) == [
        "sample_rate", "window_size", "window_stride", "n_window_size", "n_window_stride", "window", "n_fft", "lowfreq",
        "highfreq", "n_mels", "n_mfcc", "dct_type", "norm", "log",
    ]
    assert arguments(SpectrogramAugmentation) == [
        "freq_masks", "time_masks", "freq_width", "time_width", "rect_masks", "rect_time", "rect_freq", "rng",
        "mask_value", "use_vectorized_spec_augment", "use_numba_spec_augment",
    ]


def test_recorded_features_of_nemo_are_met(golden):
    folder = golden / "1_preprocessor"
    case = json.loads((folder / "nest_default.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "nest_default.safetensors")
    module = AudioToMelSpectrogramPreprocessor(**case["config"]).eval()
    features, frames = module(input_signal=tensors["in/signal"], length=tensors["in/length"])
    assert torch.equal(frames, tensors["out/lengths"])
    assert (features - tensors["out/features"]).abs().max() < 1e-4
    assert torch.equal(module.filter_banks, module.featurizer.fb)


PASSED_ON = {
    "sample_rate": 8000, "window": "hamming", "normalize": None, "n_fft": 1024, "preemph": 0.5, "features": 32,
    "lowfreq": 100, "highfreq": 7000, "log": False, "log_zero_guard_type": "clamp", "log_zero_guard_value": 1e-2,
    "pad_to": 0, "frame_splicing": 2, "exact_pad": True, "pad_value": 2.0, "mag_power": 1.0, "mel_norm": None,
    "window_size": 0.025, "window_stride": 0.012,
}


@pytest.mark.parametrize("name", PASSED_ON)
def test_every_option_reaches_the_features(name):
    before, after = (
        AudioToMelSpectrogramPreprocessor(**options).eval()(input_signal=waveforms(), length=LENGTHS)[0]
        for options in ({}, {name: PASSED_ON[name]})
    )
    assert before.shape != after.shape or not torch.allclose(before, after, atol=1e-3)


@pytest.mark.parametrize(
    "options", [{"dither": 0.1}, {"nb_augmentation_prob": 0.9}, {"nb_augmentation_prob": 0.9, "nb_max_freq": 1000},
                {"nb_augmentation_prob": 0.5, "rng": 0}]
)
def test_random_options_reach_the_features_in_training(options):
    def result(given: dict) -> torch.Tensor:
        torch.manual_seed(0)
        module = AudioToMelSpectrogramPreprocessor(**{"dither": 0.0, **given}).train()
        return module(input_signal=waveforms().repeat(4, 1), length=LENGTHS.repeat(4))[0]

    without = dict(list(options.items())[:-1])
    assert torch.equal(result(options), result(options))
    assert not torch.allclose(result(options), result(without), atol=1e-3)


def test_max_duration_sizes_the_output_of_pad_to_max():
    module = AudioToMelSpectrogramPreprocessor(pad_to="max", max_duration=0.5).eval()
    assert module(input_signal=waveforms(), length=LENGTHS)[0].shape[-1] == 50


@pytest.mark.parametrize("cls", PREPROCESSORS)
def test_sizes_may_be_given_in_samples(cls):
    seconds = cls(window_size=0.025, window_stride=0.01)
    samples = cls(window_size=None, window_stride=None, n_window_size=400, n_window_stride=160)
    given = {"input_signal": waveforms(), "length": LENGTHS}
    assert torch.equal(seconds.eval()(**given)[0], samples.eval()(**given)[0])


@pytest.mark.parametrize("cls", PREPROCESSORS)
@pytest.mark.parametrize(
    "options, message",
    [
        ({"n_window_size": 400}, r"preprocessor\.window_size=0\.02 and preprocessor\.n_window_size=400"),
        ({"window_stride": None}, r"preprocessor\.window_stride=None and preprocessor\.n_window_stride=None"),
    ],
)
def test_a_size_is_given_in_one_unit(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(**options)


@pytest.mark.parametrize("name", ["use_torchaudio", "stft_exact_pad", "stft_conv"])
def test_options_that_nemo_ignores_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"preprocessor.{name}=True is gone"):
        AudioToMelSpectrogramPreprocessor(**{name: True})


@pytest.mark.parametrize("cls", PREPROCESSORS)
def test_features_are_float32_under_autocast_and_follow_a_cast_of_the_module(cls):
    given = {"input_signal": waveforms(), "length": LENGTHS}
    expected, _ = cls().eval()(**given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cls().eval()(**given)[0], expected)
    assert cls().eval().to(torch.bfloat16)(**given)[0].dtype == torch.bfloat16


def test_audio_of_low_precision_is_reported(caplog):
    module = AudioToMelSpectrogramPreprocessor().eval()
    with caplog.at_level("WARNING", logger="nest_ssl"):
        module(input_signal=waveforms().bfloat16(), length=LENGTHS)
    assert "got audio in torch.bfloat16 and computes in float32" in caplog.text


def test_a_wrong_rank_is_named():
    with pytest.raises(TypeError, match="input_signal"):
        AudioToMelSpectrogramPreprocessor()(input_signal=waveforms()[None], length=LENGTHS)


def test_no_gradient_is_kept():
    features, _ = AudioToMelSpectrogramPreprocessor()(input_signal=waveforms().requires_grad_(), length=LENGTHS)
    assert not features.requires_grad


@pytest.mark.parametrize(
    "options", [{"freq_masks": 2}, {"time_masks": 2}, {"time_masks": 2, "time_width": 0.5},
                {"freq_masks": 2, "freq_width": 40}, {"rect_masks": 3}, {"rect_masks": 3, "rect_time": 40},
                {"rect_masks": 3, "rect_freq": 60}, {"freq_masks": 2, "mask_value": 7.0}, {"freq_masks": 2, "rng": 1},
                {"freq_masks": 2, "use_vectorized_spec_augment": False}], ids=str
)
def test_every_option_of_the_augmentation_changes_the_spectrogram(options):
    def result(given: dict) -> torch.Tensor:
        torch.manual_seed(0)
        return SpectrogramAugmentation(**given)(input_spec=torch.ones(2, 80, 100), length=torch.tensor([100, 70]))

    without = dict(list(options.items())[:-1])
    assert torch.equal(result(options), result(options))
    assert not torch.equal(result(options), result(without))


def test_the_numba_option_changes_no_number_and_says_so(caplog):
    x, length = torch.ones(2, 80, 100), torch.tensor([100, 70])
    results = []
    with caplog.at_level("WARNING", logger="nest_ssl"):
        for numba in (False, True):
            torch.manual_seed(0)
            module = SpectrogramAugmentation(freq_masks=2, time_masks=2, use_numba_spec_augment=numba)
            results.append(module(input_spec=x, length=length))
    assert torch.equal(*results)
    assert "use_numba_spec_augment=True has no effect" in caplog.text
