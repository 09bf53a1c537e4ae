import random

import pytest
import torch

from parts.submodules.spectr_augment import SpecAugment, SpecCutout

LENGTHS = torch.tensor([100, 60, 9])


def cut_of(layer: torch.nn.Module, draws: int = 400, lengths: torch.Tensor | None = LENGTHS) -> torch.Tensor:
    """(draws, 3, 20, 100) bool: what the layer cut out of ones."""
    torch.manual_seed(0)
    ones = torch.ones(3, 20, 100)
    given = () if lengths is None else (lengths,)
    return torch.stack([layer(ones, *given) != 1.0 for _ in range(draws)])


@pytest.mark.parametrize("vectorized, widest", [(True, 7), (False, 8)])
def test_stripes_have_all_widths_up_to_the_widest(vectorized, widest):
    cut = cut_of(SpecAugment(freq_masks=1, freq_width=8, use_vectorized_code=vectorized))
    assert (cut == cut[..., :1]).all()                                    # a stripe runs through all frames
    assert set(cut[..., 0].sum(-1).flatten().tolist()) == set(range(widest + 1))
    cut = cut_of(SpecAugment(time_masks=1, time_width=8, use_vectorized_code=vectorized))
    assert (cut == cut[:, :, :1]).all()
    assert set(cut[:, :, 0].sum(-1).flatten().tolist()) == set(range(widest + 1))


@pytest.mark.parametrize("vectorized, widest", [(True, [19, 11, 1]), (False, [20, 12, 1])])
def test_a_width_below_one_is_a_share_of_the_length(vectorized, widest):
    cut = cut_of(SpecAugment(time_masks=1, time_width=0.2, use_vectorized_code=vectorized))
    assert cut[:, :, 0].sum(-1).amax(0).tolist() == widest


@pytest.mark.parametrize("vectorized, spared", [(True, 1), (False, 0)])
def test_stripes_stay_within_the_length_and_reach_everywhere_in_it(vectorized, spared):
    layer = SpecAugment(time_masks=20, time_width=0.2, use_vectorized_code=vectorized)
    is_cut = cut_of(layer)[:, :2, 0].any(0)                                # (2, T)
    assert torch.equal(is_cut, torch.arange(100) < LENGTHS[:2, None] - spared)


@pytest.mark.parametrize("vectorized, last_start", [(True, 18), (False, 10)])
def test_stripes_start_where_they_or_where_the_widest_would_fit(vectorized, last_start):
    cut = cut_of(SpecAugment(freq_masks=1, freq_width=10, use_vectorized_code=vectorized))[..., 0]    # (draws, 3, F)
    starts = cut.float().argmax(-1)[cut.any(-1)]
    assert starts.min() == 0 and starts.max() == last_start


@pytest.mark.parametrize(
    "name, value",
    [("freq_masks", 3), ("time_masks", 3), ("freq_width", 3), ("time_width", 3), ("mask_value", 5.0),
     ("use_vectorized_code", False), ("rng", 1)],
)
def test_every_option_changes_the_result(name, value):
    def result(**options) -> torch.Tensor:
        torch.manual_seed(0)
        layer = SpecAugment(**{"freq_masks": 1, "time_masks": 1, "freq_width": 10, "time_width": 20, **options})
        return layer(torch.ones(3, 20, 100), LENGTHS)

    assert torch.equal(result(), result())
    assert not torch.equal(result(), result(**{name: value}))


def test_given_generators_decide_alone():
    layers = [SpecAugment(2, 2, 10, 20, rng=random.Random(5)), SpecAugment(2, 2, 10, 20, rng=5)]
    results = []
    for seed, layer in enumerate(layers):
        torch.manual_seed(seed)
        results.append(layer(torch.ones(3, 20, 100), LENGTHS))
    assert torch.equal(*results)


def test_rectangles_have_all_sizes_up_to_the_largest():
    cut = cut_of(SpecCutout(rect_masks=1, rect_time=6, rect_freq=4), lengths=None)
    heights, widths = cut.any(-1).sum(-1), cut.any(-2).sum(-1)
    assert set(heights.flatten().tolist()) == set(range(5)) and set(widths.flatten().tolist()) == set(range(7))
    assert torch.equal(cut.sum((-1, -2)), heights * widths)                      # one full rectangle


def test_the_number_of_rectangles_matters():
    one, five = (cut_of(SpecCutout(rect_masks=n, rect_time=9, rect_freq=9), 400, None).float().mean() for n in (1, 5))
    assert 3 * one < five < 6 * one


def test_rectangles_larger_than_the_spectrogram_are_fine():
    assert SpecCutout(rect_masks=3, rect_time=500, rect_freq=500)(torch.ones(2, 20, 10)).shape == (2, 20, 10)


@pytest.mark.parametrize(
    "layer, inputs",
    [(SpecCutout(rect_masks=9), ()), (SpecAugment(freq_masks=9, time_masks=9), (LENGTHS,))],
)
def test_the_callers_spectrogram_stays_as_it_is(layer, inputs):
    x = torch.ones(3, 20, 100)
    assert (layer(x, *inputs) == 0).any() and (x == 1).all()


def test_nothing_is_cut_without_masks():
    x = torch.randn(3, 20, 100)
    assert torch.equal(SpecAugment()(x, LENGTHS), x) and torch.equal(SpecCutout()(x), x)


@pytest.mark.parametrize("options", [{"time_width": 1.5}, {"time_width": -0.1}, {"freq_width": 0.5}])
def test_bad_widths_are_named(options):
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"spec_augment.{name}={value}"):
        SpecAugment(**options)
