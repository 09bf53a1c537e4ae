"""One representation out of the states of several blocks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from modules.conformer_encoder import ConformerMultiLayerFeatureExtractor
from utils.config_check import nearest

__all__ = ["POOLING", "Aggregator", "ConformerMultiLayerFeatureExtractor"]


POOLING: dict[str, Callable[["Aggregator", list[Tensor]], Tensor]] = {
    "cat": lambda self, states: torch.cat(states, dim=self.channel_idx),
    "sum": lambda _, states: torch.stack(states).sum(0),
    "mean": lambda _, states: torch.stack(states).mean(0),
    "avg": lambda _, states: torch.stack(states).mean(0),
    "max": lambda _, states: torch.stack(states).amax(0),  # NeMo 3.0.0 returns values and indices, for min too
    "min": lambda _, states: torch.stack(states).amin(0),
    "weighted_sum": lambda self, states: torch.einsum("lbds,l->bds", torch.stack(states), self.weights),
}


class Aggregator(nn.Module):
    """(list of states (B, D, S), list of lengths (B,)) -> (states, lengths of the first).

    mode: a key of `POOLING`, or none: the lists as they are.
    weights: of the weighted sum; None: learnt, starting equal. layer_idx_list: the blocks that will come.
    channel_idx: axis of `cat`.
    """

    def __init__(self, mode: str, weights: Tensor | None, layer_idx_list: Sequence[int], channel_idx: int = 1):
        super().__init__()
        if mode != "none" and mode not in POOLING:
            raise ValueError(f"aggregator.mode={mode!r} is not known{nearest(mode, ['none', *POOLING])}")
        self.mode, self.channel_idx, self.weights = mode, channel_idx, weights
        if mode == "weighted_sum" and weights is None:
            self.weights = nn.Parameter(torch.full((len(layer_idx_list),), 1.0 / len(layer_idx_list)))

    def forward(self, encoded: list[Tensor], encoded_len: list[Tensor]) -> tuple[Tensor, Tensor] | tuple[list, list]:
        if self.mode == "none":
            return encoded, encoded_len
        return POOLING[self.mode](self, encoded), encoded_len[0]
