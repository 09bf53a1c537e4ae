"""What a data set hands to collate, and what collate hands to a model.

They live in `parts` so that `data/` (which fills them) and `modules/ssl_modules/augmentation.py` (which mixes
them) share them without importing each other. Field order is NeMo 3.0.0's (`asr/data/ssl_dataset.py`); from
`seed` and `seeds` on they are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

from torch import Tensor


class BadSample(NamedTuple):
    """A sample that was left out, and why. (No frozen dataclass: Lightning refuses to move a batch that holds one.)

    reason: one word to count by, such as `unreadable` or `non_finite`; `noise_...` for a noise file.
    manifest, line: where it is listed, lines from 1; "" and 0 where that isn't known.
    """

    path: str
    reason: str
    detail: str
    manifest: str = ""
    line: int = 0


@dataclass
class AudioNoiseItem:
    """One utterance with its noise, before padding (N samples, its own for every field).

    `audio` is None where a draw had nothing to give: it only filled up a rank, or nothing usable was found for it.

    sample_id: names the item in logs and errors.
    audio, noise, noisy_audio: (N,) float32 in [-1, 1]; `noise` is what is added to `audio`, zero past `noise_len`.
    audio_len, noise_len, noisy_audio_len: () int64, in samples.
    seed: drawn from (data set seed, epoch, index); everything random that happens to the item later, such as
        batch augmentation and (in validation) masks, starts from it. None: the global generators are used.
    rejected: the sample whose turn it was, where this item stands in for it, and noise that couldn't be used.
    talkers: other speech of its manifest, which it may be mixed with instead of its batch mates' (see the batch).
    """

    sample_id: str | None = None
    audio: Tensor | None = None
    audio_len: Tensor | None = None
    noise: Tensor | None = None
    noise_len: Tensor | None = None
    noisy_audio: Tensor | None = None
    noisy_audio_len: Tensor | None = None
    seed: int | None = None
    rejected: tuple[BadSample, ...] = ()
    talkers: Sequence[Tensor] | None = None


@dataclass
class AudioNoiseBatch:
    """A padded batch (B utterances, N samples of the longest); Lightning moves its tensors between devices.

    sample_id: the names of the items.
    audio, noise, noisy_audio: (B, N) float32, zero past their lengths; noisy_audio = audio + noise.
    audio_len, noise_len, noisy_audio_len: (B,) int64, in samples.
    seeds: (B,) int64, one per item (see `AudioNoiseItem.seed`), or None.
    rejected: what was drawn for this batch and couldn't be used. Where nothing could, `len(batch)` is 0 and tensors
        have no elements.
    turns: how many samples had their turn in this batch, used or rejected.
    seconds: time that was spent on this batch, by stage (see `utils/stopwatch.py`).
    talkers: for each item, other speech of its manifest, to be mixed in instead of its batch mates'; only while an
        evaluation batch is being made.
    """

    sample_id: list | None = None
    audio: Tensor | None = None
    audio_len: Tensor | None = None
    noise: Tensor | None = None
    noise_len: Tensor | None = None
    noisy_audio: Tensor | None = None
    noisy_audio_len: Tensor | None = None
    seeds: Tensor | None = None
    rejected: tuple[BadSample, ...] = ()
    turns: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    talkers: Sequence[Sequence[Tensor]] | None = None

    def __len__(self) -> int:
        """Number of utterances."""
        return 0 if self.audio is None else len(self.audio)

    def pin_memory(self) -> "AudioNoiseBatch":
        """Called by torch's DataLoader, which pins the tensors of no class but its own containers."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return replace(self, **{name: x.pin_memory() for name, x in values.items() if isinstance(x, Tensor)})
