"""Masks over mel frames and over encoder steps."""

from torch import Tensor


def frames_to_steps(is_masked: Tensor, *, factor: int = 8, threshold: float = 0.8) -> Tensor:
    """Mark the encoder steps whose frames are mostly masked; only these are scored.

    is_masked: (B, T), or (B, F, T) where features of a frame may differ; bool or 0 and 1; T a multiple of `factor`.
    Returns (B, S) bool: True where more than `threshold` of the step's entries are masked.
    Raises ValueError when T is not a multiple of `factor`.
    Source: NEST, arXiv:2408.13106; NeMo 3.0 MLMLoss (`mask_threshold`).
    """
    if is_masked.shape[-1] % factor:
        raise ValueError(
            f"{is_masked.shape[-1]} frames are no multiple of loss.combine_time_steps={factor}: "
            f"set preprocessor.pad_to to a multiple of it"
        )
    steps = is_masked.float().unflatten(-1, (-1, factor))  # (B, S, factor) or (B, F, S, factor)
    return steps.mean((1, 3) if steps.dim() == 4 else 2) > threshold
