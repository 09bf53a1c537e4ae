"""The mel filterbank."""

import math
from collections.abc import Callable

import numpy as np

from utils.logging import warn_once

# Slaney's scale (Auditory Toolbox, 1998): linear up to 1 kHz (15 mels), logarithmic above (27 mels per factor 6.4).
SLANEY_HZ_PER_MEL = 200.0 / 3
SLANEY_BREAK_HZ = 1000.0
SLANEY_BREAK_MEL = SLANEY_BREAK_HZ / SLANEY_HZ_PER_MEL
SLANEY_LOG_STEP = math.log(6.4) / 27.0


def slaney_hz_to_mel(hz: float) -> float:
    if hz < SLANEY_BREAK_HZ:
        return hz / SLANEY_HZ_PER_MEL
    return SLANEY_BREAK_MEL + math.log(hz / SLANEY_BREAK_HZ) / SLANEY_LOG_STEP


def slaney_mel_to_hz(mel: np.ndarray) -> np.ndarray:
    above = SLANEY_BREAK_HZ * np.exp(SLANEY_LOG_STEP * (mel - SLANEY_BREAK_MEL))
    return np.where(mel < SLANEY_BREAK_MEL, SLANEY_HZ_PER_MEL * mel, above)


def htk_hz_to_mel(hz: float) -> float:
    return 2595.0 * math.log10(1.0 + hz / 700.0)


def htk_mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)


MEL_SCALES: dict[str, tuple[Callable[[float], float], Callable[[np.ndarray], np.ndarray]]] = {
    "slaney": (slaney_hz_to_mel, slaney_mel_to_hz),
    "htk": (htk_hz_to_mel, htk_mel_to_hz),
}


def mel_filterbank(
    *,
    sample_rate: int,
    n_fft: int,
    num_filters: int,
    low_hz: float = 0.0,
    high_hz: float | None = None,
    norm: str | float | None = "slaney",
    scale: str = "slaney",
) -> np.ndarray:
    """Triangular filters, evenly spaced on a mel scale.

    norm: "slaney": every triangle has area 1 over Hz; a number p (1, 2, inf): unit p-norm over bins;
    None: every triangle has height 1.
    Returns (num_filters, n_fft // 2 + 1) float32. Warns about filters so narrow that they miss every bin.
    Raises ValueError for an unknown norm or scale and for limits that hold no band.
    Source: librosa.filters.mel, whose numbers these are.
    """
    high_hz = sample_rate / 2 if high_hz is None else high_hz
    if not 0 <= low_hz < high_hz:
        raise ValueError(f"preprocessor.lowfreq={low_hz} must be at least 0 and below highfreq={high_hz} (Hz)")
    if scale not in MEL_SCALES:
        raise ValueError(f"mel scale {scale!r} is not one of {sorted(MEL_SCALES)}")
    hz_to_mel, mel_to_hz = MEL_SCALES[scale]

    bins = np.fft.rfftfreq(n_fft, 1.0 / sample_rate)                                                  # (bins,) Hz
    edges = mel_to_hz(np.linspace(hz_to_mel(low_hz), hz_to_mel(high_hz), num_filters + 2))[:, None]   # (F + 2, 1) Hz
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)                         # (F, bins)

    if not filters.any(axis=1).all():
        empty = int((~filters.any(axis=1)).sum())
        warn_once(
            f"{empty} of {num_filters} mel filters between {low_hz} and {high_hz} Hz hold no FFT bin and stay empty: "
            f"use fewer filters, a larger n_fft={n_fft} or a highfreq below {sample_rate / 2} Hz"
        )
    return (filters * filter_gains(filters, edges, norm)).astype(np.float32)


def filter_gains(filters: np.ndarray, edges: np.ndarray, norm: str | float | None) -> np.ndarray | float:
    """One factor per filter, (F, 1), that brings `filters` (F, bins) with corners `edges` (F + 2, 1) to the norm."""
    if norm is None:
        return 1.0
    if norm == "slaney":
        return 2.0 / (edges[2:] - edges[:-2])
    if isinstance(norm, str) or norm not in (1, 2, math.inf):
        raise ValueError(f"preprocessor.mel_norm={norm!r} is not one of 'slaney', 1, 2, .inf, null")
    size = np.linalg.norm(filters, ord=norm, axis=1, keepdims=True)
    return 1.0 / np.where(size > 0, size, 1.0)
