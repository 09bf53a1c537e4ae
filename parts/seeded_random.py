"""Random numbers that depend on a seed per row and on nothing else: not on the batch, its width or the device."""

import torch
from torch import Tensor

# constants of splitmix64 (Steele, Lea, Flood 2014), as signed 64-bit integers
GAMMA = 0x9E3779B97F4A7C15 - 2**64
MIX1 = 0xBF58476D1CE4E5B9 - 2**64
MIX2 = 0x94D049BB133111EB - 2**64


def seeded_uniform(seeds: Tensor, count: int, *, stream: int = 0) -> Tensor:
    """`count` numbers in [0, 1) for each seed; number t of a row is the same whatever `count` is.

    seeds: (B,) int64, any value.  stream: another stream of the same seed is independent of this one.
    Returns (B, count) float32 on the device of `seeds`.

    A counter is hashed instead of stepping a generator, so rows and columns are made at once, and CPU and GPU agree.
    """
    start = _mix(_mix(seeds) + stream * 2**32)
    counters = torch.arange(1, count + 1, device=seeds.device)
    bits = _shift_right(_mix(start.unsqueeze(1) + counters * GAMMA), 40)  # 24 bits: all that float32 holds exactly
    return bits.float() * 2.0**-24


def _mix(x: Tensor) -> Tensor:
    """Finaliser of splitmix64: a permutation of the 64-bit integers. Products wrap around."""
    x = (x ^ _shift_right(x, 30)) * MIX1
    x = (x ^ _shift_right(x, 27)) * MIX2
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift that fills with zeros; torch's own fills with the sign."""
    return (x >> bits) & (2 ** (64 - bits) - 1)
