import torch
from torch import nn

from parts.submodules.conformer_block import ConformerBlock, FeedForward


class Scale(nn.Module):
    """Stands in for attention and for convolution: order matters, mask and padding are written down."""

    def __init__(self, factor):
        super().__init__()
        self.factor, self.given = factor, None

    def forward(self, x, *given):
        self.given = given
        return self.factor * x


def build(dropout=0.0):
    torch.manual_seed(0)
    return ConformerBlock(8, 16, attention=Scale(3.0), convolution=Scale(-2.0), dropout=dropout, use_bias=True)


def test_a_block_is_half_feed_forward_attention_convolution_half_feed_forward_norm():
    block, x = build(), torch.randn(2, 5, 8)
    y = x + block.feed_forward1(block.norm_feed_forward1(x)) / 2
    y = y + 3.0 * block.norm_self_att(y)
    y = y - 2.0 * block.norm_conv(y)
    y = y + block.feed_forward2(block.norm_feed_forward2(y)) / 2
    torch.testing.assert_close(block(x, "positions", "mask", "padding"), block.norm_out(y))
    assert block.self_attn.given == ("positions", "mask") and block.conv.given == ("padding",)


def test_dropout_acts_on_every_branch_and_inside_feed_forward():
    block, x = build(dropout=0.5).train(), torch.randn(2, 5, 8)
    draws = []
    for layer in (block.dropout, block.feed_forward1.dropout, block.feed_forward2.dropout):
        layer.register_forward_hook(lambda layer, *_: draws.append(layer))
    noisy = block(x, None, None, None)
    assert [draws.count(layer) for layer in dict.fromkeys(draws)] == [1, 4, 1]
    assert not torch.allclose(noisy, block.eval()(x, None, None, None))


def test_feed_forward_is_two_projections_with_silu_between():
    layer, x = FeedForward(4, 6, dropout=0.0), torch.randn(3, 4)
    hidden = x @ layer.linear1.weight.T + layer.linear1.bias
    expected = (hidden * hidden.sigmoid()) @ layer.linear2.weight.T + layer.linear2.bias
    torch.testing.assert_close(layer(x), expected)


def test_without_bias_projections_have_none():
    assert [name for name, _ in FeedForward(4, 6, 0.0, use_bias=False).named_parameters()] == [
        "linear1.weight",
        "linear2.weight",
    ]
