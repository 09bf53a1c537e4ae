"""Freezing, thawing and counting the weights of a module."""

import pytest
import torch
from torch import nn

from core.classes import NeuralModule


class Net(NeuralModule):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 2)
        self.codes = nn.Parameter(torch.ones(5), requires_grad=False)


def trainable(net: nn.Module) -> set[str]:
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


def test_num_weights_counts_what_is_trained():
    assert Net().num_weights == 8


def test_freeze_stops_gradients_and_training_mode():
    net = Net()
    net.freeze()
    assert trainable(net) == set()
    assert not net.training
    assert not net.encoder.training


def test_partial_unfreeze_restores_what_was_trained_before():
    net = Net()
    net.freeze()
    net.unfreeze(partial=True)
    assert trainable(net) == {"encoder.weight", "encoder.bias"}
    assert net.training


def test_unfreeze_gives_gradients_to_everything_as_nemo_does():
    net = Net()
    net.unfreeze()
    assert trainable(net) == {"encoder.weight", "encoder.bias", "codes"}


def test_freezing_twice_still_remembers_what_was_trained():
    net = Net()
    net.freeze()
    net.freeze()
    net.unfreeze(partial=True)
    assert trainable(net) == {"encoder.weight", "encoder.bias"}


def test_partial_unfreeze_needs_a_freeze():
    with pytest.raises(ValueError, match=r"call freeze\(\) first"):
        Net().unfreeze(partial=True)


def test_as_frozen_leaves_gradients_modes_and_an_earlier_freeze_as_they_were():
    net = Net()
    net.encoder.eval()
    with net.as_frozen():
        assert trainable(net) == set()
        assert not net.training
    assert trainable(net) == {"encoder.weight", "encoder.bias"}
    assert (net.training, net.encoder.training) == (True, False)
    net.freeze()
    with net.as_frozen():
        pass
    net.unfreeze(partial=True)
    assert trainable(net) == {"encoder.weight", "encoder.bias"}


def test_as_frozen_thaws_after_an_error():
    net = Net()
    with pytest.raises(RuntimeError), net.as_frozen():
        raise RuntimeError
    assert trainable(net) == {"encoder.weight", "encoder.bias"}
