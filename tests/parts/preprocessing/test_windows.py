import pytest
import scipy.signal
import torch

from parts.preprocessing.windows import WINDOWS, build_window, resolve_n_fft


@pytest.mark.parametrize("name", ["hann", "hamming", "blackman", "bartlett"])
@pytest.mark.parametrize("periodic", [True, False])
def test_windows_are_those_of_scipy(name, periodic):
    expected = torch.from_numpy(scipy.signal.get_window(name, 50, fftbins=periodic)).float()
    torch.testing.assert_close(build_window(name, 50, periodic=periodic), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", [None, "none", "ones"])
def test_no_window_is_a_window_of_ones(name):
    assert torch.equal(build_window(name, 5, periodic=False), torch.ones(5))


def test_every_window_is_as_long_as_asked():
    assert {name: len(build_window(name, 7, periodic=False)) for name in WINDOWS} == dict.fromkeys(WINDOWS, 7)


def test_an_unknown_window_is_named():
    with pytest.raises(ValueError, match=r"preprocessor\.window='hanning' is not one of .*hann"):
        build_window("hanning", 5, periodic=False)


@pytest.mark.parametrize("samples, n_fft", [(1, 1), (256, 256), (257, 512), (400, 512), (512, 512)])
def test_the_default_fft_is_the_power_of_two_that_holds_the_window(samples, n_fft):
    assert resolve_n_fft(None, samples, 160) == n_fft


@pytest.mark.parametrize(
    "sizes, message",
    [
        ((256, 400, 160), "n_fft=256 is shorter than the window of 400"),
        ((None, 0, 160), "n_window_size=0"),
        ((None, 400, -1), "n_window_stride=-1"),
        ((None, 400.0, 160), "n_window_size=400.0"),
    ],
)
def test_bad_sizes_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        resolve_n_fft(*sizes)
