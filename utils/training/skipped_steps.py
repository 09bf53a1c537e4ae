"""What is kept of a step that was left out: a line of a list, and words for the log."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from torch import Tensor

LOUDEST_AUDIO = 1e3  # full scale is 1; features of much louder audio overflow
LISTED_IN_LOG = 3  # samples


@dataclass
class UsedBatch:
    """What is known of one batch of a step: names, loss () and largest absolute sample () of its audio."""

    rank: int
    sample_ids: list
    audio_peak: Tensor | float = 0.0
    loss: Tensor | float = 0.0


@dataclass
class SkippedStep:
    """One step. parameters: those whose gradient, or its norm, isn't finite; batches: of all ranks."""

    epoch: int
    step: int
    learning_rate: float
    loss: float
    grad_norm: float
    parameters: list[str]
    batches: list[dict]

    @property
    def sample_ids(self) -> Iterator:
        """Of the batches that look guilty, or of all where none does."""
        guilty = [batch for batch in self.batches if not is_sound(batch)]
        return (name for batch in guilty or self.batches for name in batch["sample_ids"])

    @property
    def loudest(self) -> float:
        """The largest absolute sample of its audio; no number where one of them is none."""
        peaks = [batch["audio_peak"] for batch in self.batches]
        return math.nan if any(map(math.isnan, peaks)) else max(peaks)

    def entry(self) -> dict:
        """For a JSON list, with what isn't finite as "nan", "inf" or "-inf": JSON has no such numbers."""
        return spelled_out(asdict(self))

    def __str__(self) -> str:
        samples = [str(name) for name in self.sample_ids]
        more = f" and {len(samples) - LISTED_IN_LOG} more" if len(samples) > LISTED_IN_LOG else ""
        first = f", first in {self.parameters[0]}" if self.parameters else ""
        return (
            f"loss {self.loss:.4g}, gradient norm {self.grad_norm:.4g}{first}, "
            f"samples {', '.join(samples[:LISTED_IN_LOG]) or 'unknown'}{more}"
        )


def cause_and_remedy(weight: str, loudest: float, precision: str) -> tuple[str, str]:
    """weight: the first that isn't finite, or ''. loudest: of the audio."""
    if weight:
        return f"the weights aren't finite ({weight})", "go on from an earlier checkpoint with a lower model.optim.lr"
    if not is_plausible(loudest):
        return f"the weights are finite, the audio is not sound (peak {loudest:.3g})", "repair these samples"
    half = ", or take trainer.precision=bf16-mixed" if precision.startswith("16") else ""
    return "weights and audio are finite", (
        "lower model.optim.lr, lengthen model.optim.sched.warmup_steps or set trainer.gradient_clip_val=1.0"
        f"{half}; trainer.detect_anomaly=true names the operation"
    )


def is_plausible(audio_peak: float) -> bool:
    return audio_peak <= LOUDEST_AUDIO  # of no number it is False


def is_sound(batch: dict) -> bool:
    return math.isfinite(batch["loss"]) and is_plausible(batch["audio_peak"])


def spelled_out(value: object) -> object:
    if isinstance(value, dict):
        return {key: spelled_out(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [spelled_out(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
