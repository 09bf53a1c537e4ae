import librosa
import numpy as np
import pytest
import torch

from parts.preprocessing.cepstrum import MelCepstrum, cosine_transform, reflect_ends

SMALL = {
    "sample_rate": 8000, "n_window_size": 200, "n_window_stride": 80, "window": "hann", "n_fft": None, "lowfreq": 0.0,
    "highfreq": None, "n_mels": 24, "n_mfcc": 13, "dct_type": 2, "norm": "ortho", "log": True,
}  # fmt: skip


def speechlike(num_samples: int, seed: int = 0) -> torch.Tensor:
    """(1, N): a gliding tone that fades by 100 dB, over a faint hiss."""
    t = torch.arange(num_samples) / 8000
    hiss = torch.randn(num_samples, generator=torch.Generator().manual_seed(seed)) * 1e-6
    return (torch.sin(2 * torch.pi * (300 + 2000 * t) * t) * torch.exp(-t * 20) + hiss)[None]


def mfcc(x: torch.Tensor, **options) -> torch.Tensor:
    """(1, n_mfcc, T) of one whole item."""
    return MelCepstrum(**{**SMALL, **options})(x, torch.tensor([x.shape[1]]))[0]


def librosa_mfcc(x: torch.Tensor, log: bool, norm: str | None) -> np.ndarray:
    mel = librosa.feature.melspectrogram(
        y=x[0].numpy(), sr=8000, n_fft=256, win_length=200, hop_length=80, pad_mode="reflect", n_mels=24, htk=True,
        norm=None,
    )
    level = np.log(mel + 1e-6) if log else librosa.power_to_db(mel, ref=1.0, amin=1e-10, top_db=80.0)
    return librosa.feature.mfcc(S=level, n_mfcc=13, dct_type=2, norm=norm)


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("norm", ["ortho", None])
@pytest.mark.parametrize("loudest", ["first", "last"])     # the last frame is no valid one, yet sets the level
def test_coefficients_are_those_of_librosa(log, norm, loudest):
    x = speechlike(4000)
    x[0, -1] += 0.0 if loudest == "first" else 900.0
    ours, theirs = mfcc(x, log=log, norm=norm)[0].numpy(), librosa_mfcc(x, log, norm)
    np.testing.assert_allclose(ours[:, :50], theirs[:, :50], atol=2e-5 * np.abs(theirs).max(), rtol=0)


@pytest.mark.parametrize("log", [True, False])
def test_an_item_is_the_same_alone_and_in_a_batch(log):
    items = [speechlike(4000), speechlike(2503, 1) * 1e-3, speechlike(90, 2)]
    items[1][0, 2440] = 1.0                 # between two frames; its mirror image is in the middle of a later one
    batch, lengths = torch.full((3, 4000), 0.7), torch.tensor([4000, 2503, 90])
    for row, item in zip(batch, items, strict=True):
        row[: item.shape[1]] = item[0]
    together, frames = MelCepstrum(**SMALL | {"log": log})(batch, lengths)
    assert frames.tolist() == [50, 32, 2]                            # every begun stride counts
    for i, item in enumerate(items):
        torch.testing.assert_close(together[i, :, : frames[i]], mfcc(item, log=log)[0, :, : frames[i]])
        assert (together[i, :, frames[i] :] == 0).all()


@pytest.mark.parametrize(
    "name, value",
    [
        ("window", "none"), ("window", "hamming"), ("n_fft", 512), ("lowfreq", 200), ("highfreq", 3000), ("n_mels", 30),
        ("n_mfcc", 10), ("norm", None), ("log", False), ("n_window_size", 160), ("n_window_stride", 100),
        ("sample_rate", 9000),
    ],
)
def test_every_option_changes_the_coefficients(name, value):
    before, after = mfcc(speechlike(2000)), mfcc(speechlike(2000), **{name: value})
    assert before.shape != after.shape or not torch.allclose(before, after, atol=1e-2)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 50])
def test_ends_are_mirrored_as_numpy_does(length):
    x = torch.randn(1, length)
    expected = np.pad(x[0].numpy(), 20, mode="reflect")
    assert np.array_equal(reflect_ends(x, torch.tensor([length]), 20)[0].numpy(), expected)


@pytest.mark.parametrize("num_samples", [0, 1, 79])
def test_the_shortest_audio_is_defined(num_samples):
    layer = MelCepstrum(**SMALL | {"log": False})
    coefficients, frames = layer(torch.ones(2, num_samples), torch.tensor([num_samples, 0]))
    assert coefficients.isfinite().all() and frames.tolist() == [min(1, num_samples), 0]


def test_the_orthonormal_transform_is_orthonormal():
    matrix = cosine_transform(24, 24, "ortho")
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(24), atol=1e-6, rtol=0)


def test_buffers_have_the_names_of_torchaudio():
    shapes = {k: tuple(v.shape) for k, v in MelCepstrum(**SMALL).state_dict().items()}
    assert shapes == {
        "dct_mat": (24, 13),
        "MelSpectrogram.spectrogram.window": (200,),
        "MelSpectrogram.mel_scale.fb": (129, 24),
    }


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dct_type": 3}, "preprocessor.dct_type=3"),
        ({"n_mfcc": 25}, "preprocessor.n_mfcc=25 is above n_mels=24"),
        ({"norm": "slaney"}, "preprocessor.norm='slaney'"),
        ({"window": "hanning"}, "preprocessor.window='hanning'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MelCepstrum(**{**SMALL, **options})


@pytest.mark.gpu
def test_cuda_gives_the_coefficients_of_the_cpu():
    x, lengths = speechlike(4000), torch.tensor([4000])
    layer = MelCepstrum(**SMALL | {"log": False})
    expected, _ = layer(x, lengths)
    torch.testing.assert_close(layer.cuda()(x.cuda(), lengths.cuda())[0].cpu(), expected, atol=1e-2, rtol=1e-4)
