"""Multi-head self-attention over all steps, with absolute or relative positions."""

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from parts.submodules.attention_options import AttentionOptions

HIDDEN_SCORE = -10000.0  # finite, as in NeMo: a row without any visible key stays free of NaN, and is zeroed after


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention. Positions are in x already (`abs_pos`)."""

    def __init__(self, options: AttentionOptions):
        super().__init__()
        d_model, bias = options.d_model, options.use_bias
        self.n_heads = options.n_heads
        self.linear_q = nn.Linear(d_model, d_model, bias=bias)
        self.linear_k = nn.Linear(d_model, d_model, bias=bias)
        self.linear_v = nn.Linear(d_model, d_model, bias=bias)
        self.attend = (FusedAttend if options.use_pytorch_sdpa else PlainAttend)(options)
        self.linear_out = nn.Linear(d_model, d_model, bias=bias)

    def forward(self, x: Tensor, positions: Tensor, hidden: Tensor) -> Tensor:
        """x: (B, S, D); hidden: (B, S, S) bool, True where the query (row) must not see the key (column)."""
        query, key, value = self.project(x)
        no_bias = query.new_zeros(())
        return self.merge(self.attend(query, key, value, no_bias, hidden.unsqueeze(1)))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S, D) -> query, key, value (B, H, S, D/H)."""
        return self.split(self.linear_q(x)), self.split(self.linear_k(x)), self.split(self.linear_v(x))

    def split(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, H, S, D/H)."""
        return x.unflatten(2, (self.n_heads, -1)).transpose(1, 2)

    def merge(self, heads: Tensor) -> Tensor:
        """(B, H, S, D/H) -> (B, S, D), through the output projection."""
        return self.linear_out(heads.transpose(1, 2).flatten(2))


class RelativeAttention(MultiHeadAttention):
    """Attention whose scores also depend on the distance between query and key, with two learnt biases.

    Source: Dai et al., Transformer-XL, arXiv:1901.02860, section 3.3.
    """

    def __init__(self, options: AttentionOptions):
        super().__init__(options)
        self.linear_pos = nn.Linear(options.d_model, options.d_model, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(options.n_heads, options.d_head))  # for the content of keys
        self.pos_bias_v = nn.Parameter(torch.zeros(options.n_heads, options.d_head))  # for the distance to them

    def forward(self, x: Tensor, positions: Tensor, hidden: Tensor) -> Tensor:
        """x: (B, S, D); positions: (1, 2S-1, D); hidden: (B, S, S) bool, True where the query must not see the key."""
        query, key, value = self.project(x)
        by_distance = distances_to_keys(self.distance_scores(query, positions))
        query = query + self.pos_bias_u.unsqueeze(1)
        return self.merge(self.attend(query, key, value, by_distance, hidden.unsqueeze(1)))

    def distance_scores(self, query: Tensor, positions: Tensor) -> Tensor:
        """(B, H, S, D/H), (1, L, D) -> (B, H, S, L): score of each query for each distance."""
        distances = self.split(self.linear_pos(positions))                     # (1, H, L, D/H)
        return (query + self.pos_bias_v.unsqueeze(1)) @ distances.transpose(2, 3)


def distances_to_keys(scores: Tensor) -> Tensor:
    """Scores by distance +(S-1) ... -(S-1), (B, H, S, 2S-1), to scores by key 0 ... S-1, (B, H, S, S).

    Row i wants columns S-1-i to 2S-2-i: with rows laid end to end, windows of S that start every 2S-2.
    """
    steps = scores.size(2)
    if steps == 1:
        return scores
    return scores.flatten(2)[..., steps - 1 :].unfold(2, steps, 2 * steps - 2)


class PlainAttend(nn.Module):
    """softmax((query key' + bias) / sqrt(D/H)) value, written out."""

    def __init__(self, options: AttentionOptions):
        super().__init__()
        self.dropout = nn.Dropout(options.dropout_att)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, hidden: Tensor) -> Tensor:
        """query, key, value: (B, H, S, D/H); bias: broadcasts to (B, H, S, S); hidden: (B, 1, S, S).

        Returns (B, H, S, D/H), zero for queries that see nothing.
        """
        scores = (query @ key.transpose(2, 3) + bias) / math.sqrt(query.size(3))
        weights = scores.masked_fill(hidden, HIDDEN_SCORE).softmax(dim=3).masked_fill(hidden, 0.0)
        return self.dropout(weights) @ value


class FusedAttend(nn.Module):
    """The same in torch's fused kernel, which draws its own dropout."""

    def __init__(self, options: AttentionOptions):
        super().__init__()
        self.dropout_att = options.dropout_att
        self.backends = [sdpa_backend(name) for name in options.use_pytorch_sdpa_backends]

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, hidden: Tensor) -> Tensor:
        """As `PlainAttend.forward`."""
        bias = (bias / math.sqrt(query.size(3))).masked_fill(hidden, HIDDEN_SCORE)
        dropout = self.dropout_att if self.training else 0.0
        with sdpa_kernel(self.backends) if self.backends else contextlib.nullcontext():
            heads = F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype), dropout_p=dropout)
        return heads.masked_fill(hidden.all(dim=3, keepdim=True), 0.0)


def sdpa_backend(name: str) -> SDPBackend:
    names = sorted(set(SDPBackend.__members__) - {"ERROR"})
    if name not in names:
        raise ValueError(f"encoder.use_pytorch_sdpa_backends: {name!r} is not one of {names}")
    return SDPBackend.__members__[name]
