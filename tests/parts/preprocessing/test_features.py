import copy
import random

import pytest
import torch

from parts.preprocessing.features import FilterbankFeatures

SMALL = {"sample_rate": 8000, "n_window_size": 200, "n_window_stride": 80, "nfilt": 20}
LENGTHS = torch.tensor([2000, 1234, 81])


def waveforms(num_samples: int = 2000) -> torch.Tensor:
    """(3, N), zero beyond LENGTHS."""
    noise = torch.randn(3, 2000, generator=torch.Generator().manual_seed(0)) * 0.1
    noise = noise * (torch.arange(2000) < LENGTHS[:, None])
    return torch.nn.functional.pad(noise, (0, num_samples - 2000))


def build(train: bool = False, **options) -> FilterbankFeatures:
    return FilterbankFeatures(**{**SMALL, **options}).train(train)


def features_of(*, train: bool = False, **options) -> torch.Tensor:
    torch.manual_seed(0)
    return build(train, **options)(waveforms(), LENGTHS)[0]


IN_EVALUATION = {
    "window": "bartlett",
    "normalize": "all_features",
    "n_fft": 512,
    "preemph": None,
    "lowfreq": 300,
    "highfreq": 3000,
    "log": False,
    "log_zero_guard_type": "clamp",
    "log_zero_guard_value": 1e-2,
    "exact_pad": True,
    "pad_value": -3.0,
    "mag_power": 1.0,
    "mel_norm": None,
    "frame_splicing": 2,
    "pad_to": 0,
    "n_window_size": 160,
    "n_window_stride": 100,
    "nfilt": 24,
    "sample_rate": 10000,
}
IN_TRAINING = {"dither": 0.1, "nb_augmentation_prob": 0.9}


@pytest.mark.parametrize("name", IN_EVALUATION)
def test_every_option_changes_the_features(name):
    before, after = features_of(), features_of(**{name: IN_EVALUATION[name]})
    assert before.shape != after.shape or not torch.allclose(before, after, atol=1e-3)


@pytest.mark.parametrize("name", IN_TRAINING)
def test_random_options_act_in_training_only(name):
    options = {"nb_max_freq": 2000, "dither": 0.0, name: IN_TRAINING[name]}
    assert torch.equal(features_of(**options), features_of(dither=0.0))
    assert not torch.allclose(features_of(train=True, **options), features_of(dither=0.0), atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"exact_pad": True}, {"preemph": None}])
def test_the_callers_waveform_stays_as_it_is(options):
    before = torch.randn(3, 2000)
    x = before.clone()
    build(True, dither=0.1, nb_augmentation_prob=0.9, nb_max_freq=2000, **options)(x, LENGTHS)
    assert torch.equal(x, before)


def test_dither_has_the_deviation_it_says():
    silence, length = torch.zeros(1, 40000), torch.tensor([40000])
    layer = build(True, dither=0.25, preemph=None, window="none", n_window_size=256)
    spectrum, _ = layer(silence, length, linear_spec=True)
    assert (spectrum[:, 1:-1, 2:-2].mean() / 256).sqrt().item() == pytest.approx(0.25, rel=0.02)


def test_narrow_band_augmentation_silences_the_upper_bins_of_its_share_of_items():
    layer = build(True, dither=0.0, nb_augmentation_prob=0.3, nb_max_freq=2000, rng=random.Random(0))
    x = torch.randn(500, 400)
    spectrum, _ = layer(x, torch.full((500,), 400), linear_spec=True)
    is_narrow = (spectrum[:, 64:] == 0).all(dim=(1, 2))      # 2000 Hz of 8000 Hz: bin 64 of 256
    assert 110 < is_narrow.sum() < 190
    assert (spectrum[:, :64] > 0).any(dim=(1, 2)).all()
    draws = random.Random(0)
    assert is_narrow.tolist() == [draws.random() < 0.3 for _ in range(500)]


def test_narrow_band_augmentation_above_the_audio_says_that_it_has_no_effect(caplog):
    with caplog.at_level("WARNING", logger="nest_ssl"):
        build(nb_augmentation_prob=0.5, nb_max_freq=4000)
    assert "preprocessor.nb_augmentation_prob=0.5 has no effect" in caplog.text


@pytest.mark.parametrize("options", [{}, {"exact_pad": True}, {"preemph": None}, {"normalize": "all_features"}])
def test_padding_content_and_amount_change_nothing(options):
    layer = build(**options)
    expected, frames = layer(waveforms(), LENGTHS)
    longer = waveforms(2345)
    longer[torch.arange(2345) >= LENGTHS[:, None]] = 7.0
    actual, same_frames = layer(longer, LENGTHS)
    assert torch.equal(frames, same_frames)
    for i, length in enumerate(frames):
        torch.testing.assert_close(actual[i, :, :length], expected[i, :, :length], atol=1e-5, rtol=1e-5)
        alone, _ = layer(waveforms()[i : i + 1, : LENGTHS[i]], LENGTHS[i : i + 1])
        torch.testing.assert_close(alone[0, :, :length], expected[i, :, :length], atol=1e-5, rtol=1e-5)
        assert (actual[i, :, length:] == 0).all()


@pytest.mark.parametrize("exact_pad, expected", [(False, [25, 15, 1]), (True, [24, 14, 0])])
def test_lengths_are_whole_strides(exact_pad, expected):
    assert build(exact_pad=exact_pad)(waveforms(), LENGTHS)[1].tolist() == expected


@pytest.mark.parametrize("pad_to, num_frames", [(0, 26), (1, 26), (16, 32), (13, 26)])
def test_the_output_has_a_multiple_of_pad_to_frames(pad_to, num_frames):
    assert features_of(pad_to=pad_to, pad_value=-3.0).shape[-1] == num_frames


def test_pad_to_max_gives_every_batch_the_frames_of_max_duration():
    layer = build(pad_to="max", max_duration=0.5)
    assert layer(waveforms(), LENGTHS)[0].shape[-1] == 50
    exactly, frames = build(pad_to="max", max_duration=0.25)(waveforms(), LENGTHS)
    assert exactly.shape[-1] == 25 == frames[0]
    with pytest.raises(ValueError, match="pad_to='max' holds 12 frames"):
        build(pad_to="max", max_duration=0.125)(waveforms(), LENGTHS)


@pytest.mark.parametrize("exact_pad", [False, True])
@pytest.mark.parametrize("num_samples", [0, 1, 79, 80, 81])
@pytest.mark.parametrize("normalize", ["per_feature", "all_features", None])
def test_the_shortest_audio_is_defined(exact_pad, num_samples, normalize):
    layer = build(exact_pad=exact_pad, normalize=normalize, pad_value=-3.0)
    features, frames = layer(torch.ones(2, num_samples), torch.tensor([num_samples, 0]))
    assert frames.tolist() == [max(0, num_samples // 80 - exact_pad), 0]
    assert features.shape == (2, 20, 16) and features.isfinite().all()
    assert (features[1] == -3.0).all()


@pytest.mark.parametrize("value", ["tiny", "eps"])
def test_named_log_guards_are_those_of_float32(value):
    silence, length = torch.zeros(1, 800), torch.tensor([800])
    features, _ = build(log_zero_guard_value=value, normalize=None)(silence, length)
    assert features[0, 0, 0].exp().item() == pytest.approx(getattr(torch.finfo(torch.float32), value), rel=1e-4)


def test_splicing_repeats_every_feature():
    once, spliced = features_of(normalize=None), features_of(normalize=None, frame_splicing=3)
    assert torch.equal(spliced, torch.cat([once] * 3, dim=1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype):
    expected = features_of()
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(features_of(), expected)


def test_gradients_reach_the_waveform_only_where_asked_for():
    x = waveforms().requires_grad_()
    assert not build()(x, LENGTHS)[0].requires_grad
    build(use_grads=True)(x, LENGTHS)[0].square().sum().backward()
    assert x.grad.isfinite().all() and x.grad[0].abs().sum() > 0


def test_the_state_dict_holds_window_and_filters():
    assert {k: tuple(v.shape) for k, v in build().state_dict().items()} == {"window": (200,), "fb": (1, 20, 129)}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"window": "hanning"}, "preprocessor.window='hanning'"),
        ({"normalize": "per_features"}, "preprocessor.normalize='per_features'"),
        ({"n_fft": 128}, "preprocessor.n_fft=128"),
        ({"log_zero_guard_type": "floor"}, "preprocessor.log_zero_guard_type='floor'"),
        ({"log_zero_guard_value": "small"}, "preprocessor.log_zero_guard_value='small'"),
        ({"log_zero_guard_value": 0}, "preprocessor.log_zero_guard_value=0 must be above 0"),
        ({"log_zero_guard_value": -1.0}, "preprocessor.log_zero_guard_value=-1.0 must be above 0"),
        ({"pad_to": "longest"}, "preprocessor.pad_to='longest'"),
        ({"pad_to": -4}, "preprocessor.pad_to=-4"),
        ({"pad_to": True}, "preprocessor.pad_to=True"),
        ({"dither": -1.0}, "preprocessor.dither=-1.0 must be at least 0"),
        ({"nb_augmentation_prob": 3}, r"preprocessor.nb_augmentation_prob=3 is not in \[0, 1\]"),
        ({"nb_augmentation_prob": -0.1}, r"preprocessor.nb_augmentation_prob=-0.1 is not in \[0, 1\]"),
        ({"frame_splicing": 0}, "preprocessor.frame_splicing=0"),
        ({"exact_pad": True, "n_window_stride": 81}, "preprocessor.exact_pad=True needs an even stride, not 81"),
        ({"lowfreq": 5000}, "preprocessor.lowfreq=5000"),
        ({"mel_norm": "area"}, "preprocessor.mel_norm='area'"),
        ({"stft_conv": True}, "preprocessor.stft_conv=True is gone"),
        ({"stft_exact_pad": True}, "preprocessor.stft_exact_pad=True is gone"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_copy_gives_the_same_features():
    layer = build(rng=3)
    assert torch.equal(copy.deepcopy(layer)(waveforms(), LENGTHS)[0], layer(waveforms(), LENGTHS)[0])


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["per_feature", "all_features", "fixed"])
def test_cuda_gives_the_features_of_the_cpu(name):
    normalize = {"fixed_mean": [1.0] * 20, "fixed_std": [2.0] * 20} if name == "fixed" else name
    expected, frames = build(normalize=normalize)(waveforms(), LENGTHS)
    with torch.autocast("cuda", dtype=torch.float16):
        actual, same_frames = build(normalize=normalize).cuda()(waveforms().cuda(), LENGTHS.cuda())
    torch.testing.assert_close(actual.cpu(), expected, atol=2e-4, rtol=0)
    assert torch.equal(same_frames.cpu(), frames)


@pytest.mark.gpu
def test_nothing_waits_for_the_device():
    layer = build(True, nb_augmentation_prob=0.5, nb_max_freq=2000).cuda()
    x, lengths = waveforms().cuda(), LENGTHS.cuda()
    layer(x, lengths)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(x, lengths)
    finally:
        torch.cuda.set_sync_debug_mode(before)
