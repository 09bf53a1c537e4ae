"""Mel frames (10 ms) to encoder steps (80 ms for factor 8): the layer in front of the Conformer blocks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parts.lengths import is_padding, length_after

KERNEL_SIZE = 3
FACTORS = (1, 2, 4, 8)
LARGEST_TENSOR = 2**31  # elements that convolution kernels can index, https://github.com/pytorch/pytorch/issues/80020


@dataclass(frozen=True)
class SubsamplingOptions:
    """What a subsampling layer is built from. `causal`, `chunking_factor` and `conv_channels` concern convolutions."""

    feat_in: int
    feat_out: int
    factor: int = 4
    conv_channels: int = 256
    causal: bool = False  # a step reads no frame of a later step
    chunking_factor: int = 1  # pieces of the batch; 1: as many as needed, -1: never more than one

    def __post_init__(self):
        if self.factor not in FACTORS:
            raise ValueError(f"encoder.subsampling_factor={self.factor} is not one of {FACTORS}")
        check_chunking_factor(self.chunking_factor)

    @property
    def halvings(self) -> int:
        """Stages of stride 2."""
        return self.factor.bit_length() - 1


def check_chunking_factor(factor: int) -> None:
    if factor != -1 and (factor < 1 or factor & (factor - 1)):
        raise ValueError(
            f"encoder.subsampling_conv_chunking_factor={factor} is not -1 (one piece), 1 (automatic) or a power of 2"
        )


def build_subsampling(name: str | None, options: SubsamplingOptions) -> nn.Module:
    """The layer called `name`: (x (B, T, F), lengths (B,)) -> (x (B, S, D), lengths (B,)).

    No name, or factor 1: a projection of each frame. Its output doesn't depend on frames beyond `lengths`.
    """
    if not name or options.factor == 1:
        return FrameProjection(options.feat_in, options.feat_out)
    if name in ("striding_conv1d", "dw_striding_conv1d"):
        raise ValueError(
            f"encoder.subsampling={name!r} is not implemented (NeMo 3.0.0 raises); use one of {sorted(SUBSAMPLING)}"
        )
    if name not in SUBSAMPLING:
        raise ValueError(f"encoder.subsampling={name!r} is not one of {sorted(SUBSAMPLING)}")
    return SUBSAMPLING[name](options)


def dw_striding(options: SubsamplingOptions) -> "ConvSubsampling":
    """Stages of a depthwise stride-2 convolution and a pointwise one; the first is an ordinary convolution."""
    channels, conv = options.conv_channels, CONVOLUTION[options.causal]
    layers = [conv(1, channels), nn.ReLU(inplace=True)]
    for _ in range(options.halvings - 1):
        layers += [
            conv(channels, channels, groups=channels),
            nn.Conv2d(channels, channels, kernel_size=1),
            nn.ReLU(inplace=True),
        ]
    return ConvSubsampling(layers, options)


def striding(options: SubsamplingOptions) -> "ConvSubsampling":
    """Stages of one stride-2 convolution."""
    channels, conv = options.conv_channels, CONVOLUTION[options.causal]
    layers = []
    for stage in range(options.halvings):
        layers += [conv(channels if stage else 1, channels), nn.ReLU(inplace=True)]
    return ConvSubsampling(layers, options)


def vggnet(options: SubsamplingOptions) -> "ConvSubsampling":
    """Stages of two convolutions and a max-pooling by 2. NeMo 3.0.0 raises here, in its length computation."""
    if options.causal:
        raise ValueError("encoder.causal_downsampling=true needs subsampling dw_striding or striding, not vggnet")
    channels = options.conv_channels
    layers = []
    for stage in range(options.halvings):
        layers += [
            TimeConv2d(channels if stage else 1, channels, stride=1),
            nn.ReLU(inplace=True),
            TimeConv2d(channels, channels, stride=1),
            nn.ReLU(inplace=True),
            TimeMaxPool2d(),
        ]
    return ConvSubsampling(layers, options)


def stacking(options: SubsamplingOptions) -> "StackingSubsampling":
    """Frames side by side, then a projection."""
    return StackingSubsampling(options, norm=nn.Identity())


def stacking_norm(options: SubsamplingOptions) -> "StackingSubsampling":
    """Stacking of layer-normalised frames."""
    return StackingSubsampling(options, norm=nn.LayerNorm(options.feat_in))


class TimeConv2d(nn.Conv2d):
    """3x3 convolution over (T, F), centred on its output."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 2, groups: int = 1, padding: int = 1):
        super().__init__(in_channels, out_channels, KERNEL_SIZE, stride, padding, groups=groups)

    def length_after(self, length):
        return length_after(length, kernel_size=KERNEL_SIZE, stride=self.stride[0], padding=2 * self.padding[0])


class CausalTimeConv2d(TimeConv2d):
    """Output i reads inputs 2i-2 to 2i, in time and, as in NeMo, in frequency. Padded by 2 in front and 1 behind."""

    def __init__(self, in_channels: int, out_channels: int, *, groups: int = 1):
        super().__init__(in_channels, out_channels, groups=groups, padding=0)
        self.before, self.after = KERNEL_SIZE - 1, self.stride[0] - 1

    def length_after(self, length):
        return super().length_after(length + self.before + self.after)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.before, self.after, self.before, self.after)))


class TimeMaxPool2d(nn.MaxPool2d):
    """Halves (T, F); an odd last item makes a window of its own."""

    def __init__(self):
        super().__init__(kernel_size=2, ceil_mode=True)

    def length_after(self, length):
        return length_after(length, kernel_size=2, stride=2, padding=1)


CONVOLUTION = {False: TimeConv2d, True: CausalTimeConv2d}
OVER_TIME = (TimeConv2d, TimeMaxPool2d)  # layers that read neighbouring frames and change lengths


class MaskedConvolutions(nn.Sequential):
    """Layers over (B, C, T, F) in which padding is zero before every layer that reads neighbouring frames."""

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self:
            if isinstance(layer, OVER_TIME):
                x = layer(zero_padding(x, lengths))
                lengths = layer.length_after(lengths)
            else:
                x = layer(x)
        return zero_padding(x, lengths), lengths

    def length_after(self, length: int) -> int:
        """Size of an axis after all layers."""
        for layer in self:
            length = layer.length_after(length) if isinstance(layer, OVER_TIME) else length
        return length


def zero_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """(B, C, T, F), frames from the length on replaced by zeros."""
    return x.masked_fill(is_padding(lengths, x.size(2))[:, None, :, None], 0.0)


class ConvSubsampling(nn.Module):
    """Convolutions that halve time and frequency, then a projection of what is left of a step."""

    def __init__(self, layers: Iterable[nn.Module], options: SubsamplingOptions):
        super().__init__()
        conv = MaskedConvolutions(*layers)
        self.out = nn.Linear(options.conv_channels * conv.length_after(options.feat_in), options.feat_out)
        self.conv = conv  # after `out`, as in NeMo: optimizer states in its checkpoints go by that order
        self.conv_channels = options.conv_channels
        self.chunking_factor = options.chunking_factor

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = x.unsqueeze(1)                                    # (B, T, F) -> (B, 1, T, F)
        pieces = self.pieces(x)
        convolved = [self.conv(*piece) for piece in zip(x.chunk(pieces), lengths.chunk(pieces), strict=True)]
        x, lengths = map(torch.cat, zip(*convolved, strict=True))
        x = x.transpose(1, 2).flatten(2)                      # (B, C, S, F') -> (B, S, C*F'), time stays on axis 1
        return self.out(x), lengths

    def pieces(self, x: Tensor) -> int:
        """In how many pieces to convolve the batch, at most one per item: memory, not numbers.

        Automatic (1): so many that the output of a stride-2 convolution stays below 2**31 elements.
        """
        wanted = abs(self.chunking_factor)
        if self.chunking_factor == 1:
            wanted = ceil(x.numel() * self.conv_channels / 4 / LARGEST_TENSOR)
        return max(1, min(wanted, len(x)))

    def change_subsampling_conv_chunking_factor(self, subsampling_conv_chunking_factor: int) -> None:
        """-1: one piece; 1: automatic; a power of 2: that many pieces."""
        check_chunking_factor(subsampling_conv_chunking_factor)
        self.chunking_factor = subsampling_conv_chunking_factor


class StackingSubsampling(nn.Module):
    """`factor` frames side by side make a step. A step reads no later frame, so it is causal as it is.

    A step counts only when all its frames are real: floor(length / factor). NeMo 3.0.0 adds the padding that
    completes the longest row to every length, so the length of an item depends on its batch.
    """

    def __init__(self, options: SubsamplingOptions, norm: nn.Module):
        super().__init__()
        self.factor = options.factor
        self.proj_out = nn.Linear(options.factor * options.feat_in, options.feat_out)
        self.pre_norm = norm  # last, as in NeMo (see ConvSubsampling)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = x.masked_fill(is_padding(lengths, x.size(1)).unsqueeze(2), 0.0)
        x = F.pad(x, (0, 0, 0, -x.size(1) % self.factor))     # (B, T, F), T a multiple of the factor
        x = self.pre_norm(x).unflatten(1, (-1, self.factor))  # (B, S, factor, F)
        return self.proj_out(x.flatten(2)), lengths // self.factor


class FrameProjection(nn.Linear):
    """No subsampling: every frame is a step."""

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = x.masked_fill(is_padding(lengths, x.size(1)).unsqueeze(2), 0.0)
        return super().forward(x), lengths


SUBSAMPLING: dict[str, Callable[[SubsamplingOptions], nn.Module]] = {
    "dw_striding": dw_striding,
    "striding": striding,
    "vggnet": vggnet,
    "stacking": stacking,
    "stacking_norm": stacking_norm,
}
