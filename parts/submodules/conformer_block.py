"""One block of a Conformer: half feed-forward, attention, convolution, half feed-forward, norm."""

from torch import Tensor, nn


class ConformerBlock(nn.Module):
    """Every branch is LayerNorm -> layer -> dropout.

    Source: Gulati et al., Conformer, arXiv:2005.08100, figure 1.
    """

    def __init__(
        self, d_model: int, d_ff: int, attention: nn.Module, convolution: nn.Module, dropout: float, use_bias: bool
    ):
        super().__init__()
        # registered in NeMo's order, convolution first: optimizer states in its checkpoints go by that order
        self.norm_feed_forward1 = nn.LayerNorm(d_model)
        self.feed_forward1 = FeedForward(d_model, d_ff, dropout, use_bias)
        self.norm_conv = nn.LayerNorm(d_model)
        self.conv = convolution
        self.norm_self_att = nn.LayerNorm(d_model)
        self.self_attn = attention
        self.norm_feed_forward2 = nn.LayerNorm(d_model)
        self.feed_forward2 = FeedForward(d_model, d_ff, dropout, use_bias)
        self.dropout = nn.Dropout(dropout)
        self.norm_out = nn.LayerNorm(d_model)

    def forward(self, x: Tensor, positions: Tensor, attention_mask: Tensor, padding: Tensor) -> Tensor:
        """x: (B, S, D); positions and attention_mask: as the attention layer takes them; padding: (B, S)."""
        x = x + 0.5 * self.dropout(self.feed_forward1(self.norm_feed_forward1(x)))
        x = x + self.dropout(self.self_attn(self.norm_self_att(x), positions, attention_mask))
        x = x + self.dropout(self.conv(self.norm_conv(x), padding))
        x = x + 0.5 * self.dropout(self.feed_forward2(self.norm_feed_forward2(x)))
        return self.norm_out(x)


class FeedForward(nn.Module):
    """Two projections with SiLU and dropout between them."""

    def __init__(self, d_model: int, d_ff: int, dropout: float, use_bias: bool = True):
        super().__init__()
        self.linear1 = nn.Linear(d_model, d_ff, bias=use_bias)
        self.activation = nn.SiLU()
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(d_ff, d_model, bias=use_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))
