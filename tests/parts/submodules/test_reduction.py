import pytest
import torch

from parts.submodules.reduction import REDUCTION, build_reduction


def reduction(name="pooling", factor=2, position=0):
    torch.manual_seed(0)
    return build_reduction(name, 6, factor, position, n_layers=3).eval()


@pytest.mark.parametrize("name", REDUCTION)
@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("steps", [16, 17, 19, 23])
def test_an_item_alone_equals_the_item_in_a_batch(name, factor, steps):
    layer, x = reduction(name, factor), torch.randn(2, 23, 6)
    batched, lengths = layer(x, torch.tensor([23, steps]))
    alone, alone_lengths = layer(x[1:, :steps], torch.tensor([steps]))
    assert lengths[1] == alone_lengths[0] == alone.size(1)
    torch.testing.assert_close(batched[1, : lengths[1]], alone[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", REDUCTION)
def test_padding_content_changes_nothing(name):
    layer, x, lengths = reduction(name), torch.randn(1, 20, 6), torch.tensor([13])
    before, (steps,) = layer(x, lengths)
    x[:, 13:] = 1e3
    assert torch.equal(before[:, :steps], layer(x, lengths)[0][:, :steps])


def test_pooling_takes_the_largest_of_each_group():
    x, lengths = reduction("pooling", 2)(torch.tensor([[[1.0], [3.0], [2.0], [0.0], [9.0]]]), torch.tensor([5]))
    assert x.flatten().tolist() == [3.0, 2.0] and lengths.tolist() == [2]


@pytest.mark.parametrize("name", [None, *REDUCTION])
def test_factor_1_keeps_every_step(name):
    x = torch.randn(2, 5, 6)
    y, lengths = reduction(name, factor=1, position=None)(x, torch.tensor([5, 3]))
    assert y is x and lengths.tolist() == [5, 3]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("max", 2, 0), "encoder.reduction='max'"),
        (("pooling", 3, 0), "encoder.reduction_factor=3"),
        (("pooling", 2, 3), "encoder.reduction_position=3"),
        (("pooling", 2, None), "encoder.reduction_position=None"),
        ((None, 2, None), "encoder.reduction_factor=2"),
        ((None, 1, 0), "encoder.reduction_factor=1, reduction_position=0"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError) as error:
        reduction(*arguments)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
