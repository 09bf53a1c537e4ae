import math

import pytest
import torch

from parts.submodules.attention_models import ATTENTION, attention_model
from parts.submodules.attention_options import LOCAL, AttentionOptions
from parts.submodules.positions import sinusoids


def build(name, **options):
    contexts = ((3, 2),) if name == LOCAL else ((-1, -1),)
    options = AttentionOptions(self_attention_model=name, d_model=8, n_heads=2, att_context_sizes=contexts, **options)
    return attention_model(name).positions(options)


def test_even_channels_are_sines_and_odd_ones_cosines():
    table = sinusoids(torch.tensor([0, 3, -3]), 4)[0]
    torch.testing.assert_close(table[0], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    torch.testing.assert_close(table[1], torch.tensor([math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)]))
    torch.testing.assert_close(table[2, 0::2], -table[1, 0::2])


@pytest.mark.parametrize(
    "name, offsets", [("abs_pos", range(5)), ("rel_pos", range(4, -5, -1)), (LOCAL, range(3, -3, -1))]
)
def test_each_model_has_the_positions_its_attention_reads(name, offsets):
    _, positions = build(name)(torch.zeros(2, 5, 8))
    torch.testing.assert_close(positions, sinusoids(torch.tensor(list(offsets)), 8))


@pytest.mark.parametrize("name", ATTENTION)
def test_xscaling_multiplies_the_input_by_the_root_of_d_model(name):
    x = torch.randn(2, 5, 8)
    scaled, positions = build(name)(x)
    plain, _ = build(name, xscaling=False)(x)
    added = positions if name == "abs_pos" else 0.0
    torch.testing.assert_close(scaled, x * math.sqrt(8) + added)
    torch.testing.assert_close(plain, x + added)


@pytest.mark.parametrize("name", ATTENTION)
def test_dropout_acts_on_input_and_on_positions_in_training_only(name):
    layer, x = build(name, dropout_pre_encoder=0.5, dropout_emb=0.5), torch.ones(1, 40, 8)
    neither = build(name)
    for index, quiet in enumerate(neither(x)):
        assert (layer.train()(x)[index] == 0).float().mean() > 0.3
        torch.testing.assert_close(layer.eval()(x)[index], quiet)


@pytest.mark.parametrize("name", ATTENTION)
def test_any_length_has_positions_and_their_precision_is_that_of_the_input(name):
    x, positions = build(name)(torch.zeros(1, 6000, 8, dtype=torch.bfloat16))
    assert x.dtype == positions.dtype == torch.bfloat16 and x.size(1) == 6000
