"""Analysis windows and frame sizes."""

from collections.abc import Callable

import torch
from torch import Tensor


def rectangular_window(samples: int, periodic: bool = False) -> Tensor:
    return torch.ones(samples)


WINDOWS: dict[str, Callable[..., Tensor]] = {  # each: (samples, periodic=) -> (samples,)
    "hann": torch.hann_window,
    "hamming": torch.hamming_window,
    "blackman": torch.blackman_window,
    "bartlett": torch.bartlett_window,
    "none": rectangular_window,
    "ones": rectangular_window,
}


def build_window(name: str | None, samples: int, *, periodic: bool) -> Tensor:
    """(samples,) float32. None and "none": no window, which raises in NeMo 3.0.0."""
    name = "none" if name is None else name
    if name not in WINDOWS:
        raise ValueError(f"preprocessor.window={name!r} is not one of {[*WINDOWS]} or null")
    return WINDOWS[name](samples, periodic=periodic)


def resolve_n_fft(n_fft: int | None, window_samples: int, stride_samples: int) -> int:
    """FFT size in samples: as given, or the power of two that holds the window."""
    for name, value in {"n_window_size": window_samples, "n_window_stride": stride_samples}.items():
        if not isinstance(value, int) or value <= 0:
            raise ValueError(f"preprocessor.{name}={value!r} must be a positive number of samples")
    n_fft = n_fft or 2 ** (window_samples - 1).bit_length()
    if n_fft < window_samples:
        raise ValueError(f"preprocessor.n_fft={n_fft} is shorter than the window of {window_samples} samples")
    return n_fft
