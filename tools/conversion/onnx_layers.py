"""Steps of the models that torch's exporter can't say in ONNX for any size, said so that it can.

Each computes what the function that it stands in for computes. They are put in place while a model is exported and at
no other time, so the models stay as they are, and so do their numbers.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.classes import typecheck
from modules.ssl_modules.masking import ConvFeatureMaskingWrapper
from parts.preprocessing.cepstrum import MelCepstrum
from parts.preprocessing.features import FilterbankFeatures
from parts.preprocessing.normalization import STD_GUARD, normalize_all_features
from parts.submodules import attention
from parts.submodules.reduction import PoolingReduction
from parts.submodules.subsampling import ConvSubsampling


@contextmanager
def exportable(model: nn.Module) -> Iterator[None]:
    """Inside the `with` block the model runs with the stand-ins. Not for use by several threads."""
    with ExitStack() as stack:
        stack.enter_context(typecheck.disable_checks())
        for owner, name, stand_in in STAND_INS:
            stack.enter_context(patch.object(owner, name, stand_in))
        for module in model.modules():
            for kind, name, build in BUILT_STAND_INS:
                if isinstance(module, kind):
                    stack.enter_context(patch.object(module, name, build(module)))
            if getattr(module, "_normalize", None) is normalize_all_features:
                stack.enter_context(patch.object(module, "_normalize", normalize_all_at_once))
        yield


def distances_to_keys(scores: Tensor) -> Tensor:
    """Scores by distance, (B, H, S, 2S-1), to scores by key, (B, H, S, S), for any S; one step needs no branch.

    With a zero in front rows are 2S long. Laid end to end, without the first S numbers and cut every 2S-1, each row
    begins one number earlier than the one before it.
    """
    steps = scores.size(2)
    rows = F.pad(scores, (1, 0)).flatten(2)[..., steps:]
    return rows.unflatten(2, (steps, -1))[..., :steps]


def subsample_in_one_piece(self: ConvSubsampling, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The number of pieces would depend on the size of the batch."""
    x, lengths = self.conv(x.unsqueeze(1), lengths)
    return self.out(x.transpose(1, 2).flatten(2)), lengths


def subsample_without_mask(self: ConvFeatureMaskingWrapper, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Nothing is masked, and nothing kept of an input that only stands for inputs."""
    return self.pre_encode(x=x, lengths=lengths)


def pool_over_steps(self: PoolingReduction, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """In two dimensions: the exporter fixes the size of what is pooled in one."""
    return F.max_pool2d(x.unsqueeze(1), (self.factor, 1)).squeeze(1), lengths // self.factor


def mel_spectrum(features: FilterbankFeatures) -> Callable[[Tensor], Tensor]:
    """(B, N) -> magnitude ** mag_power (B, n_fft // 2 + 1, T)."""
    power = power_spectrum(features.window, features.n_fft, features.hop_length)
    padding = 0 if features.exact_pad else features.n_fft // 2
    return lambda x: power(F.pad(x, (padding, padding))).pow(features.mag_power / 2)


def cepstrum_power(cepstrum: MelCepstrum) -> Callable[[Tensor], Tensor]:
    """(B, N) -> (B, n_fft // 2 + 1, T)."""
    return power_spectrum(cepstrum.MelSpectrogram.spectrogram.window, cepstrum.n_fft, cepstrum.hop_length)


def power_spectrum(window: Tensor, n_fft: int, hop: int) -> Callable[[Tensor], Tensor]:
    """(B, N) -> (B, n_fft // 2 + 1, T): the STFT as a product with sines and cosines, which become part of the file.

    In float64: quiet bands beside loud ones, as in speech that was an MP3 file, are the rounding of a float32 sum,
    and their logarithm shows it.
    """
    cosines, sines = fourier_basis(window, n_fft)

    def power(x: Tensor) -> Tensor:
        frames = x.double().unfold(1, n_fft, hop)  # (B, T, n_fft)
        return ((frames @ cosines).square() + (frames @ sines).square()).transpose(1, 2).to(x.dtype)

    return power


def fourier_basis(window: Tensor, n_fft: int) -> tuple[Tensor, Tensor]:
    """(n_fft, n_fft // 2 + 1) cosines and sines in float64, under the window, which stands in the middle."""
    left = (n_fft - len(window)) // 2
    window = F.pad(window.double(), (left, n_fft - len(window) - left))
    samples = torch.arange(n_fft, dtype=torch.float64, device=window.device)
    turns = torch.outer(samples, samples[: n_fft // 2 + 1]) % n_fft / n_fft
    angles = 2 * torch.pi * turns
    return angles.cos() * window[:, None], angles.sin() * window[:, None]


def normalize_all_at_once(x: Tensor, padding: Tensor) -> Tensor:
    """As `normalize_all_features`, whose lengths stand in Python, by sums over masked tensors."""
    count = (~padding).sum((1, 2), keepdim=True).clamp(min=1) * x.size(1)  # (B, 1, 1)
    x = x - x.masked_fill(padding, 0.0).sum((1, 2), keepdim=True) / count
    variance = x.masked_fill(padding, 0.0).square().sum((1, 2), keepdim=True) / (count - 1).clamp(min=1)
    return x / (variance.sqrt() + STD_GUARD)


STAND_INS: list[tuple[object, str, Callable]] = [
    (attention, "distances_to_keys", distances_to_keys),
    (ConvSubsampling, "forward", subsample_in_one_piece),
    (ConvFeatureMaskingWrapper, "forward", subsample_without_mask),
    (PoolingReduction, "forward", pool_over_steps),
]
BUILT_STAND_INS: list[tuple[type, str, Callable]] = [  # each: module -> what stands in for its method
    (FilterbankFeatures, "_spectrum", mel_spectrum),
    (MelCepstrum, "_power", cepstrum_power),
]
