"""Which steps a step may attend to (`encoder.att_context_size`, `att_context_style`)."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def regular_context(steps: int, left: int, right: int, device: torch.device) -> Tensor:
    """Every step sees `left` steps before it and `right` after it; -1: all. Returns (S, S) bool, True where seen."""
    behind = steps_behind(torch.arange(steps, device=device))
    return (behind <= (left if left >= 0 else steps)) & (-behind <= (right if right >= 0 else steps))


def chunked_context(steps: int, left: int, right: int, device: torch.device) -> Tensor:
    """Steps come in chunks of `right` + 1; a step sees its whole chunk and `left` steps of chunks before it.

    right=-1 (only in a list of contexts): one chunk of everything, so `left` alone limits, as in `regular_context`.
    """
    if right < 0:
        return regular_context(steps, left, right, device)
    chunk = right + 1
    behind = steps_behind(torch.arange(steps, device=device) // chunk)
    return (behind >= 0) & (behind <= (left // chunk if left >= 0 else steps))


def steps_behind(index: Tensor) -> Tensor:
    """(S,) -> (S, S): how far the key (column) lies behind the query (row)."""
    return index.unsqueeze(1) - index


CONTEXT_STYLES: dict[str, Callable[[int, int, int, torch.device], Tensor]] = {
    "regular": regular_context,
    "chunked_limited": chunked_context,
}


def hidden_keys(padding: Tensor, context: Sequence[int], style: str) -> Tensor:
    """padding: (B, S) -> (B, S, S) bool, True where the query (row) must not see the key (column).

    Padding neither sees nor is seen.
    """
    seen = CONTEXT_STYLES[style](padding.size(1), context[0], context[1], padding.device)
    return ~seen | padding.unsqueeze(1) | padding.unsqueeze(2)


def parse_contexts(size: Sequence | None, style: str) -> list[list[int]]:
    """`att_context_size`, null, a pair or a list of pairs, as a list of pairs. The first one is the default."""
    if style not in CONTEXT_STYLES:
        raise ValueError(f"encoder.att_context_style={style!r} is not one of {sorted(CONTEXT_STYLES)}")
    if not size:
        return [[-1, -1]]
    pairs = [list(size)] if isinstance(size[0], int) else [list(pair) for pair in size]
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(steps, int) and steps >= -1 for steps in pair):
            raise ValueError(f"encoder.att_context_size: {pair} must be [left, right] in steps, -1 for all")
        if style == "chunked_limited":
            check_chunks(pair, alone=len(pairs) == 1)
    return pairs


def check_chunks(pair: list[int], alone: bool) -> None:
    left, right = pair
    if right < 0 and alone:
        raise ValueError(
            f"encoder.att_context_size={pair}: right must be at least 0 with att_context_style='chunked_limited'"
        )
    if right >= 0 and left > 0 and left % (right + 1):
        raise ValueError(
            f"encoder.att_context_size={pair}: left must be a multiple of right + 1 = {right + 1} "
            "with att_context_style='chunked_limited'"
        )


def parse_probs(probs: Sequence[float] | None, count: int) -> list[float]:
    """`att_context_probs`: how often training draws each of `count` contexts; null: equally often."""
    if not probs:
        return [1.0 / count] * count
    probs = list(probs)
    if len(probs) != count or not math.isclose(sum(probs), 1.0) or min(probs) < 0:
        raise ValueError(f"encoder.att_context_probs={probs} must be {count} numbers that sum to 1, one per context")
    return probs
