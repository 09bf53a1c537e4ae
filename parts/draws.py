"""Random numbers from torch's generator or from one that the user brings."""

import random

import torch
from torch import Tensor


def as_generator(rng: random.Random | int | None) -> random.Random | None:
    """A generator as it is, or one seeded with a number, which a config can hold."""
    return rng if rng is None or isinstance(rng, random.Random) else random.Random(rng)


def draw_uniform(shape: tuple[int, ...], rng: random.Random | None, device: torch.device) -> Tensor:
    """Numbers in [0, 1): from `rng` where the user gave one, else from torch's generator, which the run seeds."""
    if rng is None:
        return torch.rand(shape, device=device)
    numbers = [rng.random() for _ in range(torch.Size(shape).numel())]
    return torch.tensor(numbers).view(shape).to(device)
