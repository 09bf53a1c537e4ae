"""Run both sides of a conversion on the same speech and compare.

Letters: B utterances, N samples, T mel frames, F mel bins, S encoder steps, D d_model.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from parts.preprocessing.audio_file import BadAudio
from parts.preprocessing.segment import load_audio
from tools.conversion.speech_encoder import SpeechEncoder
from tools.synthetic_speech import make_talker, say_something

FEATURES, STATES, LOG_PROBS, WEIGHTS = "features", "encoder states", "log-probabilities", "weights"
SECONDS = (4.01, 2.63, 1.17)  # lengths that leave odd numbers of frames after different halvings
SHORTEST_SECONDS, LONGEST_SECONDS = 0.5, 16.0  # of a recording
SEED = 0


class Output(NamedTuple):
    """What one side computed. quantity: what it is to be compared with.

    values: of each utterance, without padding; of WEIGHTS, each tensor.
    """

    quantity: str
    label: str
    values: list[Tensor]


@dataclass(frozen=True)
class Speech:
    """A ragged batch: audio (B, N) and lengths (B,), features (B, F, T) and lengths (B,), steps (B,)."""

    audio: Tensor
    audio_lengths: Tensor
    features: Tensor
    frames: Tensor
    steps: Tensor
    sample_rate: int

    def utterances(self) -> list[np.ndarray]:
        """The audio without padding."""
        return [row[:n].numpy() for row, n in zip(self.audio, self.audio_lengths.tolist(), strict=True)]


def synthesise(sample_rate: int) -> list[np.ndarray]:
    rng = np.random.default_rng(SEED)
    return [say_something(make_talker("check", rng), seconds, sample_rate, rng)[0] for seconds in SECONDS]


def load(files: Sequence[Path], sample_rate: int) -> list[np.ndarray]:
    """The starts of recordings; of those of one length also a half, so that the batch is ragged.

    Raises ValueError, naming the file, for what can't be read or is shorter than half a second.
    """
    audio = [load_start(path, sample_rate) for path in files]
    return audio if len({len(a) for a in audio}) > 1 else [*audio, audio[0][: len(audio[0]) // 2]]


def load_start(path: Path, sample_rate: int) -> np.ndarray:
    try:
        samples = load_audio(path, sample_rate)
    except BadAudio as error:
        raise ValueError(f"--audio {path}: {error}") from error
    if len(samples) < SHORTEST_SECONDS * sample_rate:
        raise ValueError(f"--audio {path} lasts {len(samples) / sample_rate:.2f} s: give {SHORTEST_SECONDS} s or more")
    return samples[: int(LONGEST_SECONDS * sample_rate)]


@torch.inference_mode()
def make_speech(model: nn.Module, audio: list[np.ndarray]) -> Speech:
    lengths = torch.tensor([len(a) for a in audio])
    padded = nn.utils.rnn.pad_sequence([torch.from_numpy(a) for a in audio], batch_first=True)
    features, frames = model.preprocessor(input_signal=padded, length=lengths)
    states, steps = model.encoder(audio_signal=features, length=frames)
    if not all(x.isfinite().all() for x in cut(states.transpose(1, 2), steps)):
        raise ValueError("the model's states of speech aren't finite: its training went wrong before this file")
    return Speech(padded, lengths, features, frames, steps, model.cfg.preprocessor.get("sample_rate", 16000))


def cut(batch: Tensor, lengths: Tensor) -> list[Tensor]:
    """(B, T, ...) -> B times (T', ...)."""
    return [row[:n] for row, n in zip(batch, lengths.tolist(), strict=True)]


@torch.inference_mode()
def run_model(model: nn.Module, speech: Speech) -> list[Output]:
    """A model of ours: features, states, all tensors, and of a whole model what it predicts without a mask."""
    features, frames = model.preprocessor(input_signal=speech.audio, length=speech.audio_lengths)
    states, steps = model.encoder(audio_signal=speech.features, length=speech.frames)
    outputs = [
        Output(FEATURES, FEATURES, cut(features.transpose(1, 2), frames)),
        Output(STATES, STATES, cut(states.transpose(1, 2), steps)),
        Output(WEIGHTS, WEIGHTS, [tensor for _, tensor in sorted(model.state_dict().items())]),
    ]
    if not isinstance(model, SpeechEncoder):
        log_probs = model.decoder(encoder_output=states)  # (B, S, V) or (B, S, V, Q)
        outputs.append(Output(LOG_PROBS, LOG_PROBS, cut(log_probs, steps)))
    return outputs


class Difference(NamedTuple):
    label: str
    largest: float
    tolerance: float

    @property
    def is_small(self) -> bool:
        return self.largest <= self.tolerance  # False for NaN

    def __str__(self) -> str:
        return f"{self.label}: {self.largest:.1e} (at most {self.tolerance:.0e})"


def compare(expected: Iterable[Output], found: Iterable[Output], tolerances: Mapping[str, float]) -> list[Difference]:
    """Largest absolute difference of each output that both sides have.

    tolerances: for values of RMS 1 or less; more is rounded off where values are larger.
    Raises ValueError where the sides don't even agree on sizes.
    """
    by_quantity = {output.quantity: output.values for output in expected}
    differences = []
    for quantity, label, values in found:
        if quantity not in by_quantity:
            continue
        pairs = list(zip(by_quantity[quantity], values, strict=True))
        for right, value in pairs:
            if right.shape != value.shape:
                raise ValueError(f"{label}: {list(value.shape)} items where {list(right.shape)} are right")
        largest = torch.stack([(right.double() - value.double()).abs().max() for right, value in pairs]).max()
        scale = max(1.0, rms([right for right, _ in pairs]))
        differences.append(Difference(label, float(largest), tolerances[quantity] * scale))  # NaN stays NaN
    return differences


def rms(values: list[Tensor]) -> float:
    """Root of the mean square over all items."""
    return (sum(float(x.double().square().sum()) for x in values) / sum(x.numel() for x in values)) ** 0.5


def check(
    model: nn.Module, found: Iterable[Output], tolerances: Mapping[str, float], where: str, speech: Speech
) -> list[Difference]:
    """Compare what another side computed with what `model` does.

    Raises ValueError, in one line, where a difference is above its tolerance.
    """
    differences = compare(run_model(model, speech), found, tolerances)
    wrong = [str(difference) for difference in differences if not difference.is_small]
    if wrong:
        raise ValueError(f"{where} is another model than the one read: {'; '.join(wrong)}; nothing is written")
    return differences
