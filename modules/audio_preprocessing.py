"""Preprocessors that turn waveforms into features, and augmentation of the features."""

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from core.classes import NeuralModule, typecheck
from core.neural_types import (
    AudioSignal,
    LengthsType,
    MelSpectrogramType,
    MFCCSpectrogramType,
    NeuralType,
    SpectrogramType,
)
from parts.preprocessing.cepstrum import MelCepstrum
from parts.preprocessing.features import FilterbankFeatures, refuse_removed
from parts.submodules.spectr_augment import SpecAugment, SpecCutout
from utils.logging import warn_once


class AudioPreprocessor(NeuralModule, ABC):
    """Calls `get_features` in float32 and gives its features in the precision the module was cast to.

    Without gradients. Under autocast features stay float32; `.to(torch.bfloat16)` makes them bfloat16.
    """

    def __init__(self, sample_rate: int):
        super().__init__()
        self._sample_rate = sample_rate
        # Empty; `.to(dtype)` casts it along, and so it tells the precision of the output.
        self.register_buffer("dtype_sentinel_tensor", torch.tensor((), dtype=torch.float32), persistent=False)

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "input_signal": NeuralType(("B", "N"), AudioSignal(freq=self._sample_rate)),
            "length": NeuralType(("B",), LengthsType()),
        }

    @typecheck()
    @torch.no_grad()
    def forward(self, input_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """input_signal: (B, N); length: (B,) samples. Returns features (B, F, T) and their lengths (B,) in frames."""
        if input_signal.dtype != torch.float32:
            warn_once(
                f"{type(self).__name__} got audio in {input_signal.dtype} and computes in float32: what the cast "
                "before it has rounded away is lost; keep audio in float32"
            )
        features, frames = self.get_features(input_signal.float(), length)
        return features.to(self.dtype_sentinel_tensor.dtype), frames

    @abstractmethod
    def get_features(self, input_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) float32 and (B,) samples -> (B, F, T) and (B,) frames."""


class AudioToMelSpectrogramPreprocessor(AudioPreprocessor):
    """Waveform -> log-mel spectrogram, with the numbers of NeMo 3.0.0 in evaluation.

    sample_rate: Hz. window_size, window_stride: seconds; or n_window_size, n_window_stride: samples (then the
    seconds must be null).
    window: hann, hamming, blackman, bartlett, none or null (no window; raises in NeMo).
    normalize: "per_feature", "all_features", null, or {fixed_mean, fixed_std} with one value per feature.
    n_fft: null: the power of two that holds the window. preemph: null switches it off.
    features: mel bins, between lowfreq and highfreq (Hz; null: half the sample rate). mel_norm: "slaney", 1, 2, .inf
    or null.
    log: natural logarithm, with log_zero_guard_value (number, "tiny", "eps") added or clamped to
    (log_zero_guard_type: add, clamp).
    dither: deviation of the white noise added in training. NeMo adds it to the caller's tensor; here that stays as is.
    pad_to: the output has a multiple of this many frames; 0: no padding; "max": as many as max_duration holds.
    pad_value: what stands beyond an item's length.
    frame_splicing: each feature stands this many times; NeMo's splicing never reaches a neighbouring frame.
    exact_pad: num_samples // stride frames, of which the last is not valid. As in NeMo, pre-emphasis then drops the
    last (n_fft - stride) / 2 samples.
    mag_power: exponent of the magnitude before the mel filters.
    nb_augmentation_prob: share of items that lose everything above nb_max_freq (Hz), in training.
    rng: source of that choice: a random.Random, or a seed; null: torch's generator, which the run's seed governs
    (NeMo: an unseeded generator).
    max_duration: seconds, ours; has an effect with pad_to="max" only (which raises in NeMo).
    use_torchaudio, stft_exact_pad, stft_conv: refused unless false. NeMo 3.0.0 takes and ignores them.

    An item of one frame becomes zeros under per_feature (NeMo raises where a CUDA device is present), an item of no
    samples has length 0 and is all pad_value.
    Raises ValueError, naming argument and value, for what is unknown or out of range.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        window_size: float | None = 0.02,
        window_stride: float | None = 0.01,
        n_window_size: int | None = None,
        n_window_stride: int | None = None,
        window: str | None = "hann",
        normalize: str | Mapping[str, Sequence[float]] | None = "per_feature",
        n_fft: int | None = None,
        preemph: float | None = 0.97,
        features: int = 64,
        lowfreq: float = 0,
        highfreq: float | None = None,
        log: bool = True,
        log_zero_guard_type: str = "add",
        log_zero_guard_value: float | str = 2**-24,
        dither: float = 1e-5,
        pad_to: int | str = 16,
        frame_splicing: int = 1,
        exact_pad: bool = False,
        pad_value: float = 0,
        mag_power: float = 2.0,
        rng: random.Random | int | None = None,
        nb_augmentation_prob: float = 0.0,
        nb_max_freq: int = 4000,
        mel_norm: str | float | None = "slaney",
        use_torchaudio: bool = False,
        stft_exact_pad: bool = False,
        stft_conv: bool = False,
        *,
        max_duration: float = 16.7,
    ):
        super().__init__(sample_rate)
        refuse_removed(use_torchaudio=use_torchaudio)
        self.featurizer = FilterbankFeatures(
            sample_rate=sample_rate,
            n_window_size=in_samples("window_size", window_size, n_window_size, sample_rate),
            n_window_stride=in_samples("window_stride", window_stride, n_window_stride, sample_rate),
            window=window,
            normalize=normalize,
            n_fft=n_fft,
            preemph=preemph,
            nfilt=features,
            lowfreq=lowfreq,
            highfreq=highfreq,
            log=log,
            log_zero_guard_type=log_zero_guard_type,
            log_zero_guard_value=log_zero_guard_value,
            dither=dither,
            pad_to=pad_to,
            max_duration=max_duration,
            frame_splicing=frame_splicing,
            exact_pad=exact_pad,
            pad_value=pad_value,
            mag_power=mag_power,
            rng=rng,
            nb_augmentation_prob=nb_augmentation_prob,
            nb_max_freq=nb_max_freq,
            mel_norm=mel_norm,
            stft_exact_pad=stft_exact_pad,
            stft_conv=stft_conv,
        )

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {
            "processed_signal": NeuralType(("B", "F", "T"), MelSpectrogramType()),
            "processed_length": NeuralType(("B",), LengthsType()),
        }

    @property
    def filter_banks(self) -> Tensor:
        """(1, F, n_fft // 2 + 1)."""
        return self.featurizer.filter_banks

    def get_features(self, input_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        return self.featurizer(input_signal, length)


class AudioToMFCCPreprocessor(AudioPreprocessor):
    """Waveform -> mel-frequency cepstral coefficients (B, n_mfcc, T), with torchaudio's numbers but without torchaudio.

    sample_rate to n_fft: as in `AudioToMelSpectrogramPreprocessor`, but windows are periodic. lowfreq, highfreq: Hz.
    n_mels: HTK mel filters of height 1. n_mfcc: coefficients kept, at most n_mels. dct_type: 2.
    norm: "ortho" or null. log: natural logarithm of mel + 1e-6; else decibels over a range of 80 dB.
    Neither dither nor pre-emphasis, normalisation or padding to a multiple, as in NeMo.

    An item's coefficients are what NeMo 3.0.0 gives for it alone, and do not depend on the batch around it (NeMo's
    do); values beyond its length are 0.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        window_size: float | None = 0.02,
        window_stride: float | None = 0.01,
        n_window_size: int | None = None,
        n_window_stride: int | None = None,
        window: str | None = "hann",
        n_fft: int | None = None,
        lowfreq: float = 0.0,
        highfreq: float | None = None,
        n_mels: int = 64,
        n_mfcc: int = 64,
        dct_type: int = 2,
        norm: str | None = "ortho",
        log: bool = True,
    ):
        super().__init__(sample_rate)
        self.featurizer = MelCepstrum(
            sample_rate=sample_rate,
            n_window_size=in_samples("window_size", window_size, n_window_size, sample_rate),
            n_window_stride=in_samples("window_stride", window_stride, n_window_stride, sample_rate),
            window=window,
            n_fft=n_fft,
            lowfreq=lowfreq,
            highfreq=highfreq,
            n_mels=n_mels,
            n_mfcc=n_mfcc,
            dct_type=dct_type,
            norm=norm,
            log=log,
        )

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {
            "processed_signal": NeuralType(("B", "F", "T"), MFCCSpectrogramType()),
            "processed_length": NeuralType(("B",), LengthsType()),
        }

    def get_features(self, input_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        return self.featurizer(input_signal, length)


class SpectrogramAugmentation(NeuralModule):
    """Cut rectangles (rect_*), then stripes of frames (time_*) and of bins (freq_*), out of spectrograms.

    Acts in training and in evaluation alike, as NeMo's: its callers use it in training only.
    See `SpecCutout` (fills with 0) and `SpecAugment` (fills with mask_value) for the arguments; rng, a random.Random or
    a seed, serves both.
    use_numba_spec_augment: has no effect here. In NeMo 3.0.0 it picks a kernel for CUDA devices that draws from the
    distribution of use_vectorized_spec_augment=False.
    """

    def __init__(
        self,
        freq_masks: int = 0,
        time_masks: int = 0,
        freq_width: int = 10,
        time_width: int | float = 10,
        rect_masks: int = 0,
        rect_time: int = 5,
        rect_freq: int = 20,
        rng: random.Random | int | None = None,
        mask_value: float = 0.0,
        use_vectorized_spec_augment: bool = True,
        use_numba_spec_augment: bool = False,
    ):
        super().__init__()
        if use_numba_spec_augment:
            warn_once(
                "spec_augment.use_numba_spec_augment=True has no effect: the masks are drawn as on a CPU, by tensor "
                "operations on every device"
            )
        self.spec_cutout = SpecCutout(rect_masks=rect_masks, rect_time=rect_time, rect_freq=rect_freq, rng=rng)
        self.spec_augment = SpecAugment(
            freq_masks=freq_masks,
            time_masks=time_masks,
            freq_width=freq_width,
            time_width=time_width,
            rng=rng,
            mask_value=mask_value,
            use_vectorized_code=use_vectorized_spec_augment,
        )

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "input_spec": NeuralType(("B", "F", "T"), SpectrogramType()),
            "length": NeuralType(("B",), LengthsType()),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {"augmented_spec": NeuralType(("B", "F", "T"), SpectrogramType())}

    @typecheck()
    def forward(self, input_spec: Tensor, length: Tensor) -> Tensor:
        """input_spec: (B, F, T); length: (B,) in frames. Returns a new (B, F, T)."""
        return self.spec_augment(self.spec_cutout(input_spec), length)


def in_samples(name: str, seconds: float | None, samples: int | None, sample_rate: int) -> int:
    """The window's size or stride in samples, given in exactly one of two units."""
    if bool(seconds) == bool(samples):
        raise ValueError(
            f"preprocessor.{name}={seconds} and preprocessor.n_{name}={samples}: give one of them, in seconds or in "
            "samples, and set the other to null"
        )
    return int(seconds * sample_rate) if seconds else samples
