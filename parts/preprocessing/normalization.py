"""Normalisation of features over the valid frames of each item."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

STD_GUARD = 1e-5  # added to every standard deviation, so that silence is not divided by zero
NO_VARIANCE = 1e-30  # vanishes beside STD_GUARD; at 0 the root has no derivative


def normalize_per_feature(x: Tensor, padding: Tensor) -> Tensor:
    """Zero mean, unit deviation of each feature over the valid frames of its item.

    x: (B, F, T); padding: (B, 1, T) bool. The variance is unbiased. An item of one frame becomes zeros, on every device
    (NeMo 3.0.0 raises for it where a CUDA device is present); an item of none stays finite.
    """
    count = (~padding).sum(-1, keepdim=True)  # (B, 1, 1)
    mean = x.masked_fill(padding, 0.0).sum(-1, keepdim=True) / count.clamp(min=1)  # (B, F, 1)
    x = x - mean
    variance = x.masked_fill(padding, 0.0).pow(2).sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    return x / (variance.clamp(min=NO_VARIANCE).sqrt() + STD_GUARD)


def normalize_all_features(x: Tensor, padding: Tensor) -> Tensor:
    """Zero mean, unit deviation over all features and valid frames of an item together. Shapes as above.

    Reads the lengths on the host. Sums over masked tensors would not need to, but round differently, and in a
    silent item STD_GUARD divides nothing but rounding: only NeMo's own sums over the cut item give its numbers.
    """
    frames = (~padding).sum(-1).clamp(min=1).flatten().tolist()
    items = [item[:, :n] for item, n in zip(x, frames, strict=True)]
    mean = torch.stack([item.mean() for item in items])
    std = torch.stack([item.std(correction=min(1, item.numel() - 1)) for item in items])
    return (x - mean[:, None, None]) / (std[:, None, None] + STD_GUARD)


def leave_unnormalized(x: Tensor, padding: Tensor) -> Tensor:
    return x


class FixedNormalization(nn.Module):
    """(x - mean) / std with given numbers: F values each, one per feature.

    NeMo 3.0.0 takes B x F values only, in the order of the batch, and so one batch size; that works here too.
    """

    def __init__(self, fixed_mean: Sequence[float], fixed_std: Sequence[float], num_features: int):
        super().__init__()
        mean, std = torch.tensor([*fixed_mean]), torch.tensor([*fixed_std])
        for name, values in {"fixed_mean": mean, "fixed_std": std}.items():
            if values.numel() == 0 or values.numel() % num_features:
                raise ValueError(
                    f"preprocessor.normalize.{name} has {values.numel()} values, the features are {num_features}"
                )
        if not (std > 0).all():
            raise ValueError("preprocessor.normalize.fixed_std must be above 0 for every feature")
        self.register_buffer("mean", mean.float().view(-1, num_features, 1), persistent=False)
        self.register_buffer("std", std.float().view(-1, num_features, 1), persistent=False)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return (x - self.mean) / self.std


NORMALIZATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # each: (x (B, F, T), padding (B, 1, T)) -> x
    "per_feature": normalize_per_feature,
    "all_features": normalize_all_features,
    "none": leave_unnormalized,
}
NO_NORMALIZATION = {"", "na", "none", "null"}  # spellings found in NeMo configs


def build_normalization(
    normalize: str | Mapping[str, Sequence[float]] | None, num_features: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """Table entry, or `FixedNormalization` for a mapping with fixed_mean and fixed_std.

    Raises ValueError for any other name, which NeMo 3.0.0 takes for "no normalisation".
    """
    if isinstance(normalize, Mapping):
        if set(normalize) != {"fixed_mean", "fixed_std"}:
            raise ValueError(f"preprocessor.normalize has keys {sorted(normalize)}, expected fixed_mean and fixed_std")
        return FixedNormalization(normalize["fixed_mean"], normalize["fixed_std"], num_features)
    name = normalize or "none"
    name = "none" if str(name).lower() in NO_NORMALIZATION else name
    if name not in NORMALIZATIONS:
        raise ValueError(
            f"preprocessor.normalize={normalize!r} is not one of 'per_feature', 'all_features', null "
            "or a mapping with fixed_mean and fixed_std"
        )
    return NORMALIZATIONS[name]
