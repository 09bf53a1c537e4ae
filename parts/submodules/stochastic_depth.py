"""Blocks skipped at random while training (Huang et al., arXiv:1603.09382; for speech arXiv:2102.03216)."""

import torch
from torch import Tensor

MODES = ("linear", "uniform")


def drop_probabilities(n_layers: int, drop_prob: float, mode: str, start_layer: int) -> list[float]:
    """Probability of skipping each block.

    Blocks before `start_layer` (1 or more) are never skipped. uniform: the others all with `drop_prob`;
    linear: growing in equal steps up to `drop_prob` at the last block.
    """
    if not 0.0 <= drop_prob < 1.0:
        raise ValueError(f"encoder.stochastic_depth_drop_prob={drop_prob} must be at least 0 and below 1")
    if mode not in MODES:
        raise ValueError(f"encoder.stochastic_depth_mode={mode!r} is not one of {MODES}")
    if not 1 <= start_layer <= n_layers:
        raise ValueError(
            f"encoder.stochastic_depth_start_layer={start_layer} must be between 1 and n_layers={n_layers}"
        )
    droppable = n_layers - start_layer
    ramp = [1.0] * droppable if mode == "uniform" else [i / droppable for i in range(1, droppable + 1)]
    return [0.0] * start_layer + [drop_prob * share for share in ramp]


def skip_at_random(before: Tensor, after: Tensor, drop_prob: float) -> Tensor:
    """Undo a block (`before` -> `after`) with `drop_prob`; else scale its change so that the expectation stays.

    One number is drawn for the batch, on the CPU. A skipped block still gets (zero) gradients: DDP needs them.
    """
    if drop_prob == 0.0:
        return after
    if torch.rand(1) < drop_prob:
        return before + 0.0 * after
    return before + (after - before) / (1.0 - drop_prob)
