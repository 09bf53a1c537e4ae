"""The convolution module of a Conformer block: what is near in time."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConformerConvolution(nn.Module):
    """Pointwise convolution with a gate, depthwise convolution over time, norm, SiLU, pointwise convolution.

    The norm is called `batch_norm` whatever it is, as in NeMo's checkpoints.
    Source: Gulati et al., arXiv:2005.08100, figure 2.
    """

    def __init__(self, d_model: int, kernel_size: int, context: Sequence[int], norm_type: str, use_bias: bool = True):
        """context: steps that the depthwise convolution reads to the left and to the right."""
        super().__init__()
        self.pointwise_conv1 = nn.Conv1d(d_model, 2 * d_model, kernel_size=1, bias=use_bias)
        self.context = tuple(context)
        self.depthwise_conv = nn.Conv1d(d_model, d_model, kernel_size, groups=d_model, bias=use_bias)
        self.batch_norm = build_norm(norm_type, d_model)
        self.activation = nn.SiLU()
        self.pointwise_conv2 = nn.Conv1d(d_model, d_model, kernel_size=1, bias=use_bias)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """x: (B, S, D); padding: (B, S). Returns (B, S, D)."""
        x = F.glu(self.pointwise_conv1(x.transpose(1, 2)), dim=1)              # (B, D, S)
        x = x.masked_fill(padding.unsqueeze(1), 0.0)
        x = self.depthwise_conv(F.pad(x, self.context))
        x = self.activation(self.batch_norm(x))
        return self.pointwise_conv2(x).transpose(1, 2)


def convolution_context(size: str | Sequence[int] | None, kernel_size: int) -> list[int]:
    """`conv_context_size`, null (centred), 'causal' or [left, right], as [left, right] in steps."""
    if kernel_size % 2 == 0:
        raise ValueError(f"encoder.conv_kernel_size={kernel_size} must be odd")
    if size is None:
        return [kernel_size // 2, kernel_size // 2]
    if size == "causal":
        return [kernel_size - 1, 0]
    if isinstance(size, str) or len(size) != 2 or min(size) < 0 or sum(size) != kernel_size - 1:
        raise ValueError(
            f"encoder.conv_context_size={size if isinstance(size, str) else list(size)} must be null, 'causal' or "
            f"[left, right] with left + right = conv_kernel_size - 1 = {kernel_size - 1}"
        )
    return list(size)


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, D, S)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class FusedBatchNorm(nn.Module):
    """A scale and a shift per channel of (B, D, S): a batch norm whose statistics went into its weights."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.unsqueeze(1) + self.bias.unsqueeze(1)


NORM: dict[str, Callable[[int], nn.Module]] = {
    "batch_norm": nn.BatchNorm1d,         # in training its statistics include padding, as NeMo's do
    "layer_norm": ChannelLayerNorm,
    "instance_norm": nn.InstanceNorm1d,   # as group_norm with one channel per group: includes padding always
    "fused_batch_norm": FusedBatchNorm,
}
GROUP_NORM = "group_norm"                 # and the number of groups; statistics include padding, as NeMo's do


def build_norm(name: str, channels: int) -> nn.Module:
    """The norm called `name`, a key of `NORM` or 'group_norm4' for 4 groups, over (B, D, S)."""
    groups = name.removeprefix(GROUP_NORM)
    if name.startswith(GROUP_NORM) and groups.isdecimal() and int(groups) and channels % int(groups) == 0:
        return nn.GroupNorm(int(groups), channels)
    if name not in NORM:
        raise ValueError(
            f"encoder.conv_norm_type={name!r} is not one of {sorted(NORM)} "
            f"or group_norm and a divisor of d_model={channels}, as in 'group_norm1'"
        )
    return NORM[name](channels)
