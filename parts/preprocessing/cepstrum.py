"""Waveform to mel-frequency cepstral coefficients, with the numbers of torchaudio but without torchaudio."""

import math

import torch
from torch import Tensor, nn

from parts.lengths import is_padding
from parts.preprocessing.mel import mel_filterbank
from parts.preprocessing.windows import build_window, resolve_n_fft

LOG_OFFSET = 1e-6
POWER_FLOOR = 1e-10
DYNAMIC_RANGE_DB = 80.0


class MelCepstrum(nn.Module):
    """(B, N) samples -> (B, n_mfcc, T): power STFT, HTK mel filters, logarithm, discrete cosine transform (type II).

    log: natural logarithm of mel + 1e-6; else decibels, cut 80 dB below the loudest value of the item.
    norm: "ortho" for an orthonormal transform, or None. Buffer names are those of torchaudio's MFCC.

    Every item gets the numbers that torchaudio gives for it alone: its end is reflected where it is, and padding
    is neither seen nor counted. In NeMo 3.0.0 an item's last frames, and in decibels all of them, change with
    the items it is batched with. torchaudio shifts the filters a little for an odd sample rate or n_fft
    (rounded Nyquist frequency); here they stand where their frequencies are.
    Source: torchaudio 2.9 `MFCC`, which NeMo 3.0.0 holds a copy of.
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        n_window_size: int,
        n_window_stride: int,
        window: str | None,
        n_fft: int | None,
        lowfreq: float,
        highfreq: float | None,
        n_mels: int,
        n_mfcc: int,
        dct_type: int,
        norm: str | None,
        log: bool,
    ):
        super().__init__()
        if dct_type != 2:
            raise ValueError(f"preprocessor.dct_type={dct_type} is not 2, the only type that NeMo computes too")
        if n_mfcc > n_mels:
            raise ValueError(f"preprocessor.n_mfcc={n_mfcc} is above n_mels={n_mels}")
        self.n_fft = resolve_n_fft(n_fft, n_window_size, n_window_stride)
        self.win_length = n_window_size
        self.hop_length = n_window_stride
        self.log = log
        filters = mel_filterbank(
            sample_rate=sample_rate,
            n_fft=self.n_fft,
            num_filters=n_mels,
            low_hz=lowfreq,
            high_hz=highfreq,
            norm=None,
            scale="htk",
        )
        self.register_buffer("dct_mat", cosine_transform(n_mfcc, n_mels, norm))
        self.MelSpectrogram = nn.Module()
        self.MelSpectrogram.spectrogram = nn.Module()
        self.MelSpectrogram.mel_scale = nn.Module()
        self.MelSpectrogram.spectrogram.register_buffer(
            "window", build_window(window, n_window_size, periodic=True)
        )
        self.MelSpectrogram.mel_scale.register_buffer("fb", torch.from_numpy(filters).T.contiguous())

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, N) float32; lengths: (B,) samples. Returns (B, n_mfcc, T), 0 beyond each length, and frames (B,)."""
        with torch.autocast(x.device.type, enabled=False):
            frames = torch.div(lengths + self.hop_length - 1, self.hop_length, rounding_mode="floor").long()
            power = self._power(reflect_ends(x, lengths, self.n_fft // 2))              # (B, n_fft // 2 + 1, T)
            mel = self.MelSpectrogram.mel_scale.fb.float().T @ power                    # (B, F, T)
            padding = is_padding(frames, mel.shape[-1])[:, None]                        # (B, 1, T)
            if self.log:
                level = torch.log(mel + LOG_OFFSET)
            else:
                unheard = is_padding(lengths // self.hop_length + 1, mel.shape[-1])     # centred beyond the end
                level = decibels(mel, unheard[:, None])
            cepstrum = self.dct_mat.float().T @ level                                   # (B, n_mfcc, T)
            return cepstrum.masked_fill(padding, 0.0), frames

    def _power(self, x: Tensor) -> Tensor:
        spectrum = torch.stft(
            x,
            n_fft=self.n_fft,
            hop_length=self.hop_length,
            win_length=self.win_length,
            window=self.MelSpectrogram.spectrogram.window.float(),
            center=False,
            return_complex=True,
        )
        return spectrum.abs().pow(2)


def reflect_ends(x: Tensor, lengths: Tensor, amount: int) -> Tensor:
    """(B, N) -> (B, N + 2 * amount): mirror every item at its own first and last sample.

    Items shorter than `amount` are mirrored again and again, as numpy.pad does; torch would raise.
    """
    last = (lengths - 1).clamp(min=0)[:, None]
    position = torch.arange(-amount, x.shape[1] + amount, device=x.device)
    phase = position % (2 * last).clamp(min=1)                       # a triangle wave between 0 and the last sample
    source = torch.minimum(phase, 2 * last - phase).clamp(min=0)
    padded = x.gather(1, source) if x.shape[1] else x.new_zeros(x.shape[0], 2 * amount)
    return padded.masked_fill(position >= lengths[:, None] + amount, 0.0)


def decibels(power: Tensor, unheard: Tensor) -> Tensor:
    """(B, F, T) power -> dB, at most 80 dB below the largest value of the item in frames not `unheard` (B, 1, T)."""
    level = 10.0 * torch.log10(power.clamp(min=POWER_FLOOR))
    loudest = level.masked_fill(unheard, -math.inf).amax((1, 2), keepdim=True)
    return torch.maximum(level, loudest - DYNAMIC_RANGE_DB)


def cosine_transform(num_coefficients: int, num_inputs: int, norm: str | None) -> Tensor:
    """(num_inputs, num_coefficients) matrix of the discrete cosine transform of type II."""
    if norm not in ("ortho", None):
        raise ValueError(f"preprocessor.norm={norm!r} is not 'ortho' or null")
    centres = torch.arange(num_inputs, dtype=torch.float64) + 0.5
    matrix = torch.cos(math.pi / num_inputs * centres[:, None] * torch.arange(num_coefficients))
    if norm is None:
        return (2.0 * matrix).float()
    matrix[:, 0] *= math.sqrt(0.5)
    return (matrix * math.sqrt(2.0 / num_inputs)).float()
