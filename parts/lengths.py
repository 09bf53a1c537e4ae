"""How many items of each padded row are real, and how many a strided layer leaves of them."""

from typing import TypeVar

import torch
from torch import Tensor

Count = TypeVar("Count", int, Tensor)  # one length, or one per row


def is_padding(lengths: Tensor, size: int) -> Tensor:
    """(B,) lengths -> (B, size) bool, True from the length on."""
    return torch.arange(size, device=lengths.device) >= lengths.unsqueeze(1)


def length_after(length: Count, *, kernel_size: int, stride: int, padding: int) -> Count:
    """Outputs of a convolution or pooling layer over `length` items.

    padding: items added at both ends together. Windows that don't fit are dropped.
    """
    return (length + padding - kernel_size) // stride + 1
