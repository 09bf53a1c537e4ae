"""Mistakes in log-mel features, told by computing them here once more: right as NeMo does, and wrong in known ways."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tools.parity.diagnosis.evidence import Evidence, close
from tools.parity.trace import EVALUATION

SAME = 1e-3  # of the largest entry, as the limit of the level `feature`
STD_GUARD, LOG_GUARD, PREEMPHASIS = 1e-5, 2.0**-24, 0.97


@dataclass(frozen=True)
class Recipe:
    """How features are made of waveforms (B, N) in float64. filters: (1, F, n_fft // 2 + 1)."""

    filters: Tensor
    n_fft: int
    window_samples: int
    hop_samples: int
    preemphasis: float = PREEMPHASIS
    window: Callable[..., Tensor] = torch.hann_window
    periodic: bool = False
    power: float = 2.0
    log_guard: float = LOG_GUARD
    unbiased: bool = True
    std_guard: float = STD_GUARD
    normalised: str = "per_feature"

    def __call__(self, x: Tensor, lengths: Tensor, frames: Tensor) -> Tensor:
        """x (B, N), lengths (B,) in samples, frames (B,) -> (B, F, T), zeros in the padding."""
        x = torch.cat([x[:, :1], x[:, 1:] - self.preemphasis * x[:, :-1]], dim=1)
        x = x.masked_fill(torch.arange(x.shape[1]) >= lengths[:, None], 0.0)
        window = self.window(self.window_samples, periodic=self.periodic, dtype=x.dtype)
        spectrum = torch.stft(
            x, self.n_fft, self.hop_samples, self.window_samples, window, pad_mode="constant", return_complex=True
        )
        features = (self.filters @ spectrum.abs().pow(self.power) + self.log_guard).log()
        rows = [self.normalise(row[:, :n]) for row, n in zip(features, frames.tolist())]
        return torch.stack([torch.nn.functional.pad(row, (0, features.shape[2] - row.shape[1])) for row in rows])

    def normalise(self, x: Tensor) -> Tensor:
        """(F, T) of an utterance."""
        if self.normalised == "none":
            return x
        axes = (0, 1) if self.normalised == "all_features" else (1,)
        std = x.std(axes, keepdim=True, correction=int(self.unbiased))
        return (x - x.mean(axes, keepdim=True)) / (std + self.std_guard)


def ones_window(size: int, periodic: bool, dtype: torch.dtype) -> Tensor:
    return torch.ones(size, dtype=dtype)


MISTAKES: dict[str, dict] = {  # what it looks like -> what is another in the recipe
    "wrong window: Hamming instead of Hann": {"window": torch.hamming_window},
    "wrong window: Blackman instead of Hann": {"window": torch.blackman_window},
    "wrong window: Bartlett instead of Hann": {"window": torch.bartlett_window},
    "wrong window: none instead of Hann": {"window": ones_window},
    "wrong window: the periodic Hann window instead of the symmetric one": {"periodic": True},
    "no preemphasis": {"preemphasis": 0.0},
    "magnitudes instead of their squares": {"power": 1.0},
    "features aren't normalised": {"normalised": "none"},
    "normalised over all mel bins together instead of each": {"normalised": "all_features"},
    "biased variance in the normalisation": {"unbiased": False},
    "log guard: 1e-5 instead of 2**-24": {"log_guard": 1e-5},
    "log guard: 1e-10 instead of 2**-24": {"log_guard": 1e-10},
}


def features(evidence: Evidence) -> str | None:
    """Of the clean speech, the first that goes through the preprocessor."""
    if not evidence.is_call or not evidence.culprit.module.startswith("preprocessor"):
        return None
    recipe = nemo_recipe(evidence)
    call = evidence.nemo_call("preprocessor")
    ours = evidence.pair.ours.find(EVALUATION, "preprocessor")
    if recipe is None or call is None or ours is None or evidence.pair.ours.output(ours).dim() != 3:
        return None
    inputs = evidence.ours.job.inputs
    x, lengths = inputs["clean"].double() / 32768, inputs["lengths"]
    got, expected = evidence.pair.ours.output(ours), evidence.pair.nemo.output(call)
    frames = evidence.pair.nemo.output(call, 1)

    def fits(other: Recipe, to: Tensor) -> bool:
        made = other(x, lengths, frames)[:, :, : int(frames.max())]
        return to.shape[2] >= made.shape[2] and close(to[:, :, : made.shape[2]], made, SAME)

    if not fits(recipe, expected):
        return None
    return next((name for name, change in MISTAKES.items() if fits(replace(recipe, **change), got)), None)


def nemo_recipe(evidence: Evidence) -> Recipe | None:
    """None for what isn't made so simply."""
    config = evidence.config.get("preprocessor", {})
    filters = getattr(getattr(getattr(evidence.model, "preprocessor", None), "featurizer", None), "fb", None)
    plain = config.get("normalize") == "per_feature" and config.get("window") == "hann" and config.get("log", True)
    if filters is None or not plain or config.get("frame_splicing", 1) != 1 or config.get("exact_pad"):
        return None
    rate = config["sample_rate"]
    sizes = (int(config[name] * rate) for name in ("window_size", "window_stride"))
    return Recipe(filters.double(), config.get("n_fft") or 512, *sizes)


FEATURE_CAUSES = {"features": features}
