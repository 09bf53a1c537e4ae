"""What holds for a model whatever its weights, and how far a model is from it: waveform in, predictions and codes out.

Each function takes a model in evaluation and returns the largest change of its log-probabilities on real steps, in
units of the largest of them; infinite where lengths, masks or codes change, or a number is not finite.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tools.parity.cases import SAMPLE_RATE, make_audio

FRAME_SAMPLES = 160
WINDOW_SAMPLES = 400


@dataclass(frozen=True)
class Outputs:
    """log_probs (B, S, V, Q) or (B, S, V), lengths (B,), is_masked (B, T), tokens (B, S, Q) or (B, S)."""

    log_probs: Tensor
    lengths: Tensor
    is_masked: Tensor
    tokens: Tensor

    def row(self, index: int) -> tuple[Tensor, Tensor]:
        """log_probs and tokens of an utterance, its real steps only."""
        steps = int(self.lengths[index])
        return self.log_probs[index, :steps], self.tokens[index, :steps]


@torch.no_grad()
def evaluate(model: nn.Module, clean: Tensor, noisy: Tensor, lengths: Tensor, seeds: Tensor) -> Outputs:
    """clean, noisy: (B, N); lengths, seeds: (B,). The masks follow from the seeds."""
    signals = {"input_signal": clean, "input_signal_length": lengths}
    if "Denoise" in type(model).__name__:
        signals |= {"noisy_input_signal": noisy, "noisy_input_signal_length": lengths}
    return run(model, signals, seeds)


def run(model: nn.Module, signals: dict[str, Tensor], seeds: Tensor) -> Outputs:
    with model.mask_processor.seeded(seeds):
        log_probs, steps, masks, tokens = model(**signals, apply_mask=True)
    return Outputs(log_probs, steps, masks[:, 0] > 0, tokens)


def two_utterances() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """clean, noisy, lengths, seeds: synthetic speech of 1.17 and 0.85 s."""
    audio = make_audio()
    return audio["clean"] / 32768, audio["noisy"] / 32768, audio["lengths"], torch.tensor([5, 6])


def change(one: Outputs, other: Outputs, rows: list[tuple[int, int]]) -> float:
    """How far pairs of rows (index in `one`, index in `other`) differ."""
    largest = 0.0
    for a, b in rows:
        if not torch.equal(one.lengths[a], other.lengths[b]):
            return float("inf")
        (log_probs, tokens), (other_log_probs, other_tokens) = one.row(a), other.row(b)
        frames = min(one.is_masked.shape[1], other.is_masked.shape[1])
        if not torch.equal(one.is_masked[a, :frames], other.is_masked[b, :frames]):
            return float("inf")
        if not torch.equal(tokens, other_tokens) or not other_log_probs.isfinite().all():
            return float("inf")
        largest = max(largest, ((log_probs - other_log_probs).abs().max() / log_probs.abs().max()).item())
    return largest


def change_by_padding_content(model: nn.Module) -> float:
    """The samples behind the shorter utterance become NaN."""
    clean, noisy, lengths, seeds = two_utterances()
    before = evaluate(model, clean, noisy, lengths, seeds)
    behind = torch.arange(clean.shape[1]) >= lengths[:, None]
    after = evaluate(model, clean.masked_fill(behind, torch.nan), noisy.masked_fill(behind, torch.nan), lengths, seeds)
    return change(before, after, [(0, 0), (1, 1)])


def change_by_padding_amount(model: nn.Module) -> float:
    """Another 0.3 s of padding behind both utterances."""
    clean, noisy, lengths, seeds = two_utterances()
    before = evaluate(model, clean, noisy, lengths, seeds)
    more = (0, int(0.3 * SAMPLE_RATE))
    longer = [nn.functional.pad(signal, more) for signal in (clean, noisy)]
    return change(before, evaluate(model, *longer, lengths, seeds), [(0, 0), (1, 1)])


def change_by_batch(model: nn.Module) -> float:
    """Each utterance alone, without padding."""
    clean, noisy, lengths, seeds = two_utterances()
    together = evaluate(model, clean, noisy, lengths, seeds)
    alone = [
        evaluate(model, clean[i : i + 1, :n], noisy[i : i + 1, :n], lengths[i : i + 1], seeds[i : i + 1])
        for i, n in enumerate(lengths.tolist())
    ]
    return max(change(together, one, [(i, 0)]) for i, one in enumerate(alone))


@torch.no_grad()
def change_by_feature_padding(model: nn.Module) -> float:
    """The noisy features behind the shorter utterance become NaN. For models that take them, which denoise."""
    clean, noisy, lengths, seeds = two_utterances()
    features, frames = model.preprocessor(input_signal=noisy, length=lengths)
    behind = (torch.arange(features.shape[2]) >= frames[:, None])[:, None]
    outputs = []
    for fill in (0.0, torch.nan):
        signals = {
            "input_signal": clean,
            "input_signal_length": lengths,
            "processed_noisy_input_signal": features.masked_fill(behind, fill),
            "processed_noisy_input_signal_length": frames,
        }
        outputs.append(run(model, signals, seeds))
    return change(*outputs, [(0, 0), (1, 1)])


INVARIANTS: dict[str, Callable[[nn.Module], float]] = {
    "padding content": change_by_padding_content,
    "padding amount": change_by_padding_amount,
    "the rest of the batch": change_by_batch,
    "padding of the features": change_by_feature_padding,
}


def steps_changed_by_late_samples(model: nn.Module, frame: int) -> Tensor:
    """(S,) bool: what changes when the samples that only `frame` and later frames read run backwards.

    The model must neither mask, which hides changes, nor normalise over the utterance, which spreads them.
    """
    clean, noisy, lengths, _ = two_utterances()
    lengths, seeds = lengths[:1], torch.tensor([5])
    late = (frame - 1) * FRAME_SAMPLES + WINDOW_SAMPLES // 2
    signals = []
    for signal in (clean, noisy):
        other = signal[:1].clone()
        other[:, late:] = signal[:1, late:].flip(1)
        signals.append(other)
    before = evaluate(model, clean[:1], noisy[:1], lengths, seeds)
    after = evaluate(model, *signals, lengths, seeds)
    return (before.log_probs != after.log_probs)[0].flatten(1).any(dim=1)
