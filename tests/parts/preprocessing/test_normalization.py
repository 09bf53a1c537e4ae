import pytest
import torch

from parts.lengths import is_padding
from parts.preprocessing.normalization import NORMALIZATIONS, build_normalization

LENGTHS = torch.tensor([7, 4, 2])


def features() -> tuple[torch.Tensor, torch.Tensor]:
    """(3, 5, 9) and its padding (3, 1, 9)."""
    return torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(0)) * 3 + 2, is_padding(LENGTHS, 9)[:, None]


@pytest.mark.parametrize("name, dims", [("per_feature", 1), ("all_features", (0, 1))])
def test_valid_frames_get_zero_mean_and_unit_deviation(name, dims):
    x, padding = features()
    normalized = build_normalization(name, 5)(x, padding)
    for item, length in zip(normalized, LENGTHS, strict=True):
        torch.testing.assert_close(item[:, :length].mean(dims), torch.zeros(5 if dims == 1 else ()), atol=1e-5, rtol=0)
        torch.testing.assert_close(item[:, :length].std(dims), torch.ones(5 if dims == 1 else ()), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_padding_changes_nothing(name):
    x, padding = features()
    other = x.masked_fill(padding, 1e3)
    normalize = build_normalization(name, 5)
    assert torch.equal(normalize(x, padding).masked_fill(padding, 0), normalize(other, padding).masked_fill(padding, 0))


@pytest.mark.parametrize("length, expected", [(1, 0.0), (0, None)])
def test_an_item_of_one_frame_becomes_zeros_and_one_of_none_stays_finite(length, expected):
    x = torch.randn(1, 5, 3)
    normalized = build_normalization("per_feature", 5)(x, is_padding(torch.tensor([length]), 3)[:, None])
    assert normalized.isfinite().all()
    assert expected is None or (normalized[:, :, :length] == expected).all()


@pytest.mark.parametrize("num_features, length", [(5, 1), (5, 0), (1, 1)])
def test_all_features_stays_finite_for_the_shortest_items(num_features, length):
    x = torch.randn(1, num_features, 3)
    padding = is_padding(torch.tensor([length]), 3)[:, None]
    assert build_normalization("all_features", num_features)(x, padding).isfinite().all()


def test_fixed_numbers_serve_any_batch_size():
    x, padding = features()
    fixed = {"fixed_mean": [1, 2, 3, 4, 5], "fixed_std": [1, 2, 3, 4, 5.5]}
    normalized = build_normalization(fixed, 5)(x, padding)
    torch.testing.assert_close(normalized[2, 4], (x[2, 4] - 5) / 5.5)
    assert torch.equal(normalized, build_normalization({k: v * 3 for k, v in fixed.items()}, 5)(x, padding))


@pytest.mark.parametrize("name", [None, "", "NA", "none", "null"])
def test_no_normalization_has_many_spellings(name):
    x, padding = features()
    assert torch.equal(build_normalization(name, 5)(x, padding), x)


@pytest.mark.parametrize(
    "normalize, message",
    [
        ("per_features", "normalize='per_features' is not one of 'per_feature'"),
        ({"fixed_mean": [0.0] * 5}, "expected fixed_mean and fixed_std"),
        ({"fixed_mean": [0.0] * 4, "fixed_std": [1.0] * 5}, "fixed_mean has 4 values, the features are 5"),
        ({"fixed_mean": [0.0] * 5, "fixed_std": [1.0] * 4 + [0.0]}, "fixed_std must be above 0"),
    ],
)
def test_bad_options_are_named(normalize, message):
    with pytest.raises(ValueError, match=message):
        build_normalization(normalize, 5)
