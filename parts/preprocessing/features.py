"""Waveform to log-mel features."""

import random
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from parts.draws import as_generator, draw_uniform
from parts.lengths import is_padding
from parts.preprocessing.mel import mel_filterbank
from parts.preprocessing.normalization import build_normalization
from parts.preprocessing.windows import build_window, resolve_n_fft
from utils.logging import warn_once

GRAD_GUARD = 1e-5  # under the root of the magnitude, where its derivative is needed at zero


class FilterbankFeatures(nn.Module):
    """(B, N) samples -> (B, F, T) log-mel features: dither, pre-emphasis, STFT, mel, log, normalisation, padding.

    Arguments, their order and the buffers `window` (n_window_size,) and `fb` (1, F, bins) are NeMo 3.0.0's; see
    `AudioToMelSpectrogramPreprocessor` for their meaning. Only here: `max_duration` (seconds; the size of the output
    where pad_to="max") and `use_grads` (let gradients flow to the waveform).

    Raises ValueError, naming argument and value, for what is out of range, and for pad_to="max" with longer audio.
    Source: NeMo 3.0.0 `FilterbankFeatures`.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_window_size: int = 320,
        n_window_stride: int = 160,
        window: str | None = "hann",
        normalize: str | Mapping[str, Sequence[float]] | None = "per_feature",
        n_fft: int | None = None,
        preemph: float | None = 0.97,
        nfilt: int = 64,
        lowfreq: float = 0,
        highfreq: float | None = None,
        log: bool = True,
        log_zero_guard_type: str = "add",
        log_zero_guard_value: float | str = 2**-24,
        dither: float = 1e-5,
        pad_to: int | str = 16,
        max_duration: float = 16.7,
        frame_splicing: int = 1,
        exact_pad: bool = False,
        pad_value: float = 0,
        mag_power: float = 2.0,
        use_grads: bool = False,
        rng: random.Random | int | None = None,
        nb_augmentation_prob: float = 0.0,
        nb_max_freq: int = 4000,
        mel_norm: str | float | None = "slaney",
        stft_exact_pad: bool = False,
        stft_conv: bool = False,
    ):
        super().__init__()
        refuse_removed(stft_exact_pad=stft_exact_pad, stft_conv=stft_conv)
        n_fft = resolve_n_fft(n_fft, n_window_size, n_window_stride)
        check_framing(n_window_stride, exact_pad, pad_to, frame_splicing)
        if log_zero_guard_type not in LOG_GUARDS:
            raise ValueError(f"preprocessor.log_zero_guard_type={log_zero_guard_type!r} is not one of {[*LOG_GUARDS]}")
        check_augmentation(dither, nb_augmentation_prob)

        self.sample_rate = sample_rate
        self.win_length = n_window_size
        self.hop_length = n_window_stride
        self.n_fft = n_fft
        self.exact_pad = exact_pad
        self.stft_pad_amount = (n_fft - n_window_stride) // 2 if exact_pad else None
        self.normalize = normalize
        self.preemph = preemph
        self.log = log
        self.log_zero_guard_type = log_zero_guard_type
        self.log_zero_guard_value = log_guard_number(log_zero_guard_value)
        self.dither = dither
        self.frame_splicing = frame_splicing
        self.pad_to = pad_to
        self.pad_value = pad_value
        self.mag_power = mag_power
        self.use_grads = use_grads
        self.nb_augmentation_prob = nb_augmentation_prob
        self._nb_max_fft_bin = int(nb_max_freq / sample_rate * n_fft)
        self._rng = as_generator(rng)
        if nb_augmentation_prob > 0 and nb_max_freq >= sample_rate / 2:
            warn_once(
                f"preprocessor.nb_augmentation_prob={nb_augmentation_prob} has no effect: audio of {sample_rate} Hz "
                f"holds nothing above nb_max_freq={nb_max_freq} Hz"
            )

        filters = mel_filterbank(
            sample_rate=sample_rate,
            n_fft=n_fft,
            num_filters=nfilt,
            low_hz=lowfreq,
            high_hz=highfreq or None,
            norm=mel_norm,
        )
        self.register_buffer("window", build_window(window, n_window_size, periodic=False))
        self.register_buffer("fb", torch.from_numpy(filters)[None])
        self._normalize = build_normalization(normalize, nfilt * frame_splicing)
        self.max_length = int(self.get_seq_len(torch.tensor(int(max_duration * sample_rate))))

    @property
    def filter_banks(self) -> Tensor:
        """(1, F, n_fft // 2 + 1)."""
        return self.fb

    def get_seq_len(self, seq_len: Tensor) -> Tensor:
        """Samples (B,) -> valid frames (B,), as NeMo counts them: one less than the STFT gives, never below 0.

        NeMo 3.0.0 returns -1 with exact_pad for audio shorter than the stride.
        """
        both_sides = 2 * (self.n_fft // 2 if self.stft_pad_amount is None else self.stft_pad_amount)
        frames = torch.div(seq_len + both_sides - self.n_fft, self.hop_length, rounding_mode="floor")
        return frames.clamp(min=0).long()

    def forward(self, x: Tensor, seq_len: Tensor, linear_spec: bool = False) -> tuple[Tensor, Tensor]:
        """x: (B, N) float32 samples; seq_len: (B,) samples. What lies beyond an item's length changes nothing.

        Returns features (B, F * frame_splicing, T), `pad_value` beyond each length, and lengths (B,) in frames.
        linear_spec: stop before the mel filters and return (B, n_fft // 2 + 1, T) instead.
        Runs in float32 under autocast: the squares of loud audio overflow float16.
        """
        grads = self.use_grads and torch.is_grad_enabled()
        with torch.set_grad_enabled(grads), torch.autocast(x.device.type, enabled=False):
            frames = self.get_seq_len(seq_len)
            spectrum = self._spectrum(self._waveform(x, seq_len))        # (B, n_fft // 2 + 1, T)
            if linear_spec:
                return spectrum, frames
            features = self._logarithm(self.fb.to(spectrum.dtype) @ spectrum)
            # NeMo's splicing concatenates every frame with itself and never with its neighbours: kept, so that
            # sizes and numbers are those of its checkpoints.
            features = features.repeat(1, self.frame_splicing, 1)        # (B, F * frame_splicing, T)
            padding = is_padding(frames, features.shape[-1])[:, None]    # (B, 1, T)
            features = self._normalize(features, padding).masked_fill(padding, self.pad_value)
            return self._padded(features), frames

    def _waveform(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Silence the padding, add the zeros of exact_pad, then dither (in training) and pre-emphasis."""
        x = x.masked_fill(is_padding(lengths, x.shape[1]), 0.0)
        if self.stft_pad_amount is not None:
            # At least one frame must fit, also where all audio is shorter than the stride.
            missing = max(0, self.n_fft - 2 * self.stft_pad_amount - x.shape[1])
            x = nn.functional.pad(x, (self.stft_pad_amount, self.stft_pad_amount + missing))
        if self.training and self.dither > 0:
            x = x + self.dither * torch.randn_like(x)
        if self.preemph is not None:
            x = torch.cat((x[:, :1], x[:, 1:] - self.preemph * x[:, :-1]), dim=1)
            # With exact_pad the audio has moved `stft_pad_amount` to the right, yet NeMo 3.0.0 cuts at the old
            # length and so drops as many samples of its end. Models are trained on that: kept.
            x = x.masked_fill(is_padding(lengths, x.shape[1]), 0.0)
        return x

    def _spectrum(self, x: Tensor) -> Tensor:
        """(B, N) -> magnitude ** mag_power (B, n_fft // 2 + 1, T), without its upper band where drawn in training."""
        spectrum = torch.stft(
            x,
            n_fft=self.n_fft,
            hop_length=self.hop_length,
            win_length=self.win_length,
            window=self.window.float(),
            center=not self.exact_pad,
            pad_mode="constant",
            return_complex=True,
        )
        guard = GRAD_GUARD if self.use_grads else 0.0
        magnitude = torch.sqrt(torch.view_as_real(spectrum).pow(2).sum(-1) + guard)
        if self.training and self.nb_augmentation_prob > 0:
            is_narrow = draw_uniform((x.shape[0],), self._rng, x.device) < self.nb_augmentation_prob
            is_upper = torch.arange(magnitude.shape[1], device=x.device) >= self._nb_max_fft_bin
            magnitude = magnitude.masked_fill((is_narrow[:, None] & is_upper)[:, :, None], 0.0)
        return magnitude.pow(self.mag_power)

    def _logarithm(self, mel: Tensor) -> Tensor:
        if not self.log:
            return mel
        return torch.log(LOG_GUARDS[self.log_zero_guard_type](mel, self.log_zero_guard_value))

    def _padded(self, x: Tensor) -> Tensor:
        """Bring (B, F, T) to a multiple of `pad_to` frames, or to `max_length` frames."""
        num_frames = x.shape[-1]
        if self.pad_to == "max":
            missing = self.max_length - num_frames
            if missing < -1:  # the last frame of the STFT is never a valid one
                raise ValueError(
                    f"preprocessor.pad_to='max' holds {self.max_length} frames of {self.hop_length} samples, the "
                    f"audio has {num_frames - 1}: cut it to max_duration or set pad_to to a number"
                )
        else:
            missing = -num_frames % self.pad_to if self.pad_to > 0 else 0
        return nn.functional.pad(x, (0, missing), value=self.pad_value)


LOG_GUARDS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "add": lambda mel, guard: mel + guard,
    "clamp": lambda mel, guard: mel.clamp(min=guard),
}


def check_framing(stride_samples: int, exact_pad: bool, pad_to: int | str, frame_splicing: int) -> None:
    """Raise ValueError for numbers of samples or frames that don't fit."""
    if exact_pad and stride_samples % 2:
        raise ValueError(
            f"preprocessor.exact_pad=True needs an even stride, not {stride_samples} samples: as many zeros stand "
            "before the audio as after it"
        )
    if frame_splicing < 1:
        raise ValueError(f"preprocessor.frame_splicing={frame_splicing} must be at least 1 (1: no splicing)")
    if not (pad_to == "max" or (type(pad_to) is int and pad_to >= 0)):
        raise ValueError(f"preprocessor.pad_to={pad_to!r} must be a number of frames (0: no padding) or 'max'")


def check_augmentation(dither: float, nb_augmentation_prob: float) -> None:
    """Raise ValueError for noise or a share of items that can't be."""
    if dither < 0:
        raise ValueError(f"preprocessor.dither={dither} must be at least 0 (0: none)")
    if not 0 <= nb_augmentation_prob <= 1:
        raise ValueError(f"preprocessor.nb_augmentation_prob={nb_augmentation_prob} is not in [0, 1]")


def log_guard_number(value: float | str) -> float:
    """The number behind `log_zero_guard_value`. Raises ValueError unless it is above 0: silence would become -inf."""
    if value in ("tiny", "eps"):
        return getattr(torch.finfo(torch.float32), value)
    if isinstance(value, str) or not value > 0:
        raise ValueError(f"preprocessor.log_zero_guard_value={value!r} must be above 0, 'tiny' or 'eps'")
    return value


def refuse_removed(**options: bool) -> None:
    """Options of old NeMo configs that NeMo 3.0.0 takes and ignores: refuse them by name when switched on."""
    for name, value in options.items():
        if value:
            raise ValueError(
                f"preprocessor.{name}={value} is gone (NeMo 3.0.0 ignores it): set it to false for the numbers that "
                "NeMo gives; exact_pad=true gives num_samples // stride frames"
            )
