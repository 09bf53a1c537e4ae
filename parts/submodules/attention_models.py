"""The values of `encoder.self_attention_model`: positions, layer and mask that belong together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from parts.submodules.attention import MultiHeadAttention, RelativeAttention
from parts.submodules.attention_context import hidden_keys
from parts.submodules.attention_options import LOCAL, AttentionOptions
from parts.submodules.local_attention import LocalRelativeAttention, WindowMask, window_mask
from parts.submodules.positions import AbsolutePositions, RelativePositions, WindowPositions


@dataclass(frozen=True)
class AttentionModel:
    """How to build the positions of an encoder, the attention of a block, and the mask they are given per batch."""

    positions: Callable[[AttentionOptions], nn.Module]  # module: x (B, S, D) -> (x, positions)
    layer: Callable[[AttentionOptions], nn.Module]  # module: (x, positions, mask) -> (B, S, D)
    mask: Callable[[Tensor, Sequence[int], str], Any]  # (padding (B, S), context, style) -> mask


def local_mask(padding: Tensor, context: Sequence[int], style: str) -> WindowMask:
    return window_mask(padding, context)  # there is one style: AttentionOptions refuses others


ATTENTION: dict[str, AttentionModel] = {
    "rel_pos": AttentionModel(RelativePositions, RelativeAttention, hidden_keys),
    "abs_pos": AttentionModel(AbsolutePositions, MultiHeadAttention, hidden_keys),
    LOCAL: AttentionModel(WindowPositions, LocalRelativeAttention, local_mask),
}


def attention_model(name: str) -> AttentionModel:
    if name not in ATTENTION:
        raise ValueError(f"encoder.self_attention_model={name!r} is not one of {sorted(ATTENTION)}")
    return ATTENTION[name]


def tie_position_biases(layers: Sequence[nn.Module]) -> None:
    """Give all attention layers the position biases of the first one (`untie_biases: false`)."""
    for layer in layers[1:]:
        layer.pos_bias_u, layer.pos_bias_v = layers[0].pos_bias_u, layers[0].pos_bias_v
