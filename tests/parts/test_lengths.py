import pytest
import torch

from parts.lengths import is_padding, length_after


def test_padding_starts_at_the_length():
    assert is_padding(torch.tensor([0, 2, 3]), 3).tolist() == [[True] * 3, [False, False, True], [False] * 3]


@pytest.mark.parametrize("kernel_size, stride, padding", [(3, 2, 2), (3, 2, 3), (2, 2, 1), (3, 1, 2), (5, 1, 0)])
@pytest.mark.parametrize("length", [5, 8, 9, 400, 401])
def test_lengths_are_those_of_torch_convolutions(length, kernel_size, stride, padding):
    out = torch.nn.functional.conv1d(torch.ones(1, 1, length + padding), torch.ones(1, 1, kernel_size), stride=stride)
    assert length_after(length, kernel_size=kernel_size, stride=stride, padding=padding) == out.size(2)
    lengths = torch.tensor([length, length])
    assert length_after(lengths, kernel_size=kernel_size, stride=stride, padding=padding).tolist() == [out.size(2)] * 2
