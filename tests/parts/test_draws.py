import random

import torch

from parts.draws import as_generator, draw_uniform

CPU = torch.device("cpu")


def test_without_a_generator_torch_decides():
    torch.manual_seed(0)
    expected = torch.rand(2, 3)
    torch.manual_seed(0)
    assert torch.equal(draw_uniform((2, 3), None, CPU), expected)


def test_a_given_generator_or_seed_decides_alone():
    expected = random.Random(3)
    drawn = draw_uniform((2, 3), as_generator(3), CPU)
    assert torch.equal(drawn, torch.tensor([[expected.random() for _ in range(3)] for _ in range(2)]))
    mine = random.Random(3)
    assert as_generator(mine) is mine
