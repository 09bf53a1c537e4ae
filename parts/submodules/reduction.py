"""Fewer steps between two blocks or after the last one (`encoder.reduction`)."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from parts.submodules.subsampling import SubsamplingOptions, striding

REDUCTION_FACTORS = (2, 4, 8)


class PoolingReduction(nn.Module):
    """The maximum over `factor` steps.

    Lengths are floor(length / factor). NeMo 3.0.0 divides them once per factor of two, each time by the whole
    factor: 16 instead of 4 for factor 4; for factor 2 both are the same.
    """

    def __init__(self, d_model: int, factor: int):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool1d(x.transpose(1, 2), self.factor).transpose(1, 2)  # (B, S, D) -> (B, S // factor, D)
        return x, lengths // self.factor


class StridingReduction(nn.Module):
    """The `striding` subsampling, with the D channels of a step in the place of mel bins."""

    def __init__(self, d_model: int, factor: int):
        super().__init__()
        self.reduction_enc = striding(SubsamplingOptions(d_model, d_model, factor, conv_channels=d_model))

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.reduction_enc(x, lengths)


REDUCTION: dict[str, Callable[[int, int], nn.Module]] = {
    "pooling": PoolingReduction,  # each entry: (x (B, S, D), lengths) -> (x (B, S', D), lengths)
    "striding": StridingReduction,
}


def build_reduction(name: str | None, d_model: int, factor: int, position: int | None, n_layers: int) -> nn.Module:
    """The layer called `name`, or one without effect when there is none or the factor is 1.

    position: index of the block after which it stands; -1: after the last one and the output projection.
    """
    if name is None:
        if factor != 1 or position is not None:
            raise ValueError(
                f"encoder.reduction_factor={factor}, reduction_position={position} have no effect without "
                f"encoder.reduction, one of {sorted(REDUCTION)}"
            )
        return NoReduction()
    if name not in REDUCTION:
        raise ValueError(f"encoder.reduction={name!r} is not null or one of {sorted(REDUCTION)}")
    if factor == 1:
        return NoReduction()
    if factor not in REDUCTION_FACTORS:
        raise ValueError(f"encoder.reduction_factor={factor} is not 1 or one of {REDUCTION_FACTORS}")
    if position is None or not -1 <= position < n_layers:
        raise ValueError(f"encoder.reduction_position={position} must be -1 (the end) or a block, 0 to {n_layers - 1}")
    return REDUCTION[name](d_model, factor)


class NoReduction(nn.Module):
    """All steps stay."""

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return x, lengths
