"""Relative attention inside a window, with optional global tokens: memory grows with S, not with S squared.

Steps are cut into S/W blocks, rounded up, of W = max(left, right) steps; the queries of a block find all their keys
in the block itself and in its two neighbours, 3W keys.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parts.submodules.attention import HIDDEN_SCORE, RelativeAttention
from parts.submodules.attention_options import AttentionOptions


class WindowMask(NamedTuple):
    """What local attention must not see, made once per batch."""

    padding: Tensor  # (B, S) bool
    hidden: Tensor  # (B, 1, S, 3W) bool, True where the query must not see the key of its neighbourhood


def window_mask(padding: Tensor, context: Sequence[int]) -> WindowMask:
    """padding: (B, S) bool; context: steps to the left and to the right."""
    left, right = context
    width, steps = max(context), padding.size(1)
    query = torch.arange(width, device=padding.device).unsqueeze(1)
    ahead = torch.arange(-width, 2 * width, device=padding.device) - query     # (W, 3W), key minus query
    padded_keys = neighbourhoods(padding[:, None, :, None], width, fill=True).transpose(3, 4)  # (B, 1, S/W, 1, 3W)
    hidden = (ahead < -left) | (ahead > right) | padded_keys                   # (B, 1, S/W, W, 3W)
    return WindowMask(padding, hidden.flatten(2, 3)[:, :, :steps])


class LocalRelativeAttention(RelativeAttention):
    """Each step sees `left` steps before it and `right` after it, and every global token; global tokens see all.

    A global token inside the window is seen twice: at its distance, and as a global token.
    Equal to NeMo 3.0.0 but for four things. There, two or more global tokens answer queries scrambled over items,
    heads and tokens, so an item depends on its batch; and global tokens in the padding are seen. Here not. A window
    of one step, such as [1, 1], works here and raises there. And dropout draws in another order.
    Source: Beltagy et al., Longformer, arXiv:2004.05150.
    """

    def __init__(self, options: AttentionOptions):
        super().__init__(options)
        self.left, self.right = options.window
        self.width = max(options.window)
        self.dropout = nn.Dropout(options.dropout_att)
        self.tokens = slice(0, options.global_tokens * options.global_tokens_spacing, options.global_tokens_spacing)
        self.global_attn_separate = options.global_attn_separate
        if self.global_attn_separate:
            self.global_q = nn.Linear(options.d_model, options.d_model, bias=options.use_bias)
            self.global_k = nn.Linear(options.d_model, options.d_model, bias=options.use_bias)
            self.global_v = nn.Linear(options.d_model, options.d_model, bias=options.use_bias)

    def forward(self, x: Tensor, positions: Tensor, mask: WindowMask) -> Tensor:
        """x: (B, S, D); positions: (1, left + right + 1, D)."""
        query, key, value = self.project(x)
        global_query, global_key, global_value = self.project_global(x, (query, key, value))
        tokens = self.tokens

        near = self.window_scores(query, key, positions).masked_fill(mask.hidden, HIDDEN_SCORE)    # (B, H, S, 3W)
        far = content_scores(global_query, global_key[:, :, tokens], mask.padding[:, tokens])      # (B, H, S, G)
        weights = torch.cat([far, near], dim=3).softmax(dim=3)
        weights = self.dropout(weights.masked_fill(mask.padding[:, None, :, None], 0.0))
        far, near = weights.split([far.size(3), near.size(3)], dim=3)
        heads = far @ value[:, :, tokens] + self.window_sum(near, value)                           # (B, H, S, D/H)

        to_all = content_scores(global_query[:, :, tokens], global_key, mask.padding).softmax(dim=3)
        heads[:, :, tokens] = self.dropout(to_all) @ global_value
        return self.merge(heads)

    def project_global(self, x: Tensor, local: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key, value (B, H, S, D/H) of global attention: those of the window unless they are separate."""
        if not self.global_attn_separate:
            return local
        return self.split(self.global_q(x)), self.split(self.global_k(x)), self.split(self.global_v(x))

    def window_scores(self, query: Tensor, key: Tensor, positions: Tensor) -> Tensor:
        """(B, H, S, D/H) twice -> (B, H, S, 3W): scores of each query for the keys of its neighbourhood.

        The scores for the distances +left ... -right belong at the columns W-left ... W+right of 2W+1. NeMo 3.0.0
        puts those to the left at columns 0 ... left-1 and the others at 2W-right ... 2W: the same place when left
        is right, else off by the difference. Matched, for the sake of weights trained that way.
        """
        by_distance = self.distance_scores(query, positions)  # (B, H, S, L+R+1)
        before, after = by_distance.split([self.left, self.right + 1], dim=3)
        gap = by_distance.new_zeros(*by_distance.shape[:3], 2 * self.width - self.left - self.right)
        by_distance = blocks(torch.cat([before, gap, after], dim=3), self.width)  # (B, H, S/W, W, 2W+1)

        keys = neighbourhoods(key, self.width)  # (B, H, S/W, 3W, D/H)
        by_content = blocks(query + self.pos_bias_u.unsqueeze(1), self.width) @ keys.transpose(3, 4)
        scores = (by_content + distances_to_neighbours(by_distance)) / math.sqrt(query.size(3))  # (B, H, S/W, W, 3W)
        return scores.flatten(2, 3)[:, :, : query.size(2)]

    def window_sum(self, weights: Tensor, value: Tensor) -> Tensor:
        """weights: (B, H, S, 3W); value: (B, H, S, D/H). Returns (B, H, S, D/H)."""
        heads = blocks(weights, self.width) @ neighbourhoods(value, self.width)
        return heads.flatten(2, 3)[:, :, : value.size(2)]


def content_scores(query: Tensor, key: Tensor, padding: Tensor) -> Tensor:
    """(B, H, S, D/H), (B, H, K, D/H), (B, K) -> (B, H, S, K): scores without distances, keys in the padding hidden."""
    scores = query @ key.transpose(2, 3) / math.sqrt(query.size(3))
    return scores.masked_fill(padding[:, None, None, :], HIDDEN_SCORE)


def blocks(x: Tensor, width: int) -> Tensor:
    """(B, H, S, C) -> (B, H, S/W, W, C), zeros after the end."""
    return F.pad(x, (0, 0, 0, -x.size(2) % width)).unflatten(2, (-1, width))


def neighbourhoods(x: Tensor, width: int, fill: float = 0.0) -> Tensor:
    """(B, H, S, C) -> (B, H, S/W, 3W, C): each block with the block before it and the block after it."""
    x = F.pad(x, (0, 0, width, width + -x.size(2) % width), value=fill)
    return x.unfold(2, 3 * width, width).transpose(3, 4)


def distances_to_neighbours(scores: Tensor) -> Tensor:
    """Scores by distance, (..., W, 2W+1), to scores by key, (..., W, 3W): row i moves i columns to the right.

    Rows of 3W+1 laid end to end and cut every 3W do that.
    """
    width = scores.size(-2)
    ends = F.pad(scores, (0, width)).flatten(-2)[..., :-width]
    return ends.unflatten(-1, (width, 3 * width))
