"""Sinusoidal positions, and what is done to the encoder's input with them.

NeMo keeps a table of `pos_emb_max_len` positions and, over several GPUs, agrees on its size
(`sync_max_audio_length`). Here positions are computed for each batch, at a cost below one thousandth of a block's:
there is no longest input, and no buffer whose size ranks could disagree on. The numbers are the same.
"""

import math

import torch
from torch import Tensor, nn

from parts.submodules.attention_options import AttentionOptions


def sinusoids(offsets: Tensor, d_model: int) -> Tensor:
    """(L,) offsets in steps -> (1, L, D): sines in even channels, cosines in odd ones, wavelengths 2 pi to 2e4 pi.

    Source: Vaswani et al., arXiv:1706.03762.
    """
    channels = torch.arange(0, d_model, 2, dtype=torch.float32, device=offsets.device)
    angles = offsets.float().unsqueeze(1) * torch.exp(channels * -(math.log(10000.0) / d_model))  # (L, D/2)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).unsqueeze(0)


class AbsolutePositions(nn.Module):
    """x (B, S, D) -> (scaled x plus positions, positions (1, S, D)), with dropout on both.

    NeMo 3.0.0 ignores `dropout_emb` here.
    """

    def __init__(self, options: AttentionOptions):
        super().__init__()
        self.scale = options.input_scale
        self.dropout_emb = nn.Dropout(options.dropout_emb)
        self.dropout = nn.Dropout(options.dropout_pre_encoder)

    def offsets(self, x: Tensor) -> Tensor:
        return torch.arange(x.size(1), device=x.device)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        positions = self.dropout_emb(sinusoids(self.offsets(x), x.size(2)).to(x.dtype))
        return self.dropout(self.place(x * self.scale, positions)), positions

    def place(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + positions


class RelativePositions(AbsolutePositions):
    """Positions of distances, query minus key, from +(S-1) down to -(S-1), for the attention layers; x is scaled only.

    Source: Dai et al., Transformer-XL, arXiv:1901.02860, appendix B.
    """

    def offsets(self, x: Tensor) -> Tensor:
        steps = x.size(1)
        return torch.arange(steps - 1, -steps, -1, device=x.device)

    def place(self, x: Tensor, positions: Tensor) -> Tensor:
        return x


class WindowPositions(RelativePositions):
    """Distances inside the attention window only: +left down to -right.

    Dropout on x is `dropout_pre_encoder`, as everywhere; NeMo 3.0.0 takes `dropout` here and ignores the other.
    """

    def __init__(self, options: AttentionOptions):
        super().__init__(options)
        self.left, self.right = options.window

    def offsets(self, x: Tensor) -> Tensor:
        return torch.arange(self.left, -self.right - 1, -1, device=x.device)
