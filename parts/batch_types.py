"""What a data set hands to collate, and what collate hands to a model.

They live in `parts` so that `data/` (which fills them) and `modules/ssl_modules/augmentation.py` (which mixes
them) share them without importing each other. Field order is NeMo 3.0.0's (`asr/data/ssl_dataset.py`); `seed` and
`seeds` are ours and come last.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class AudioNoiseItem:
    """One utterance with its noise, before padding (N samples, its own for every field).

    sample_id: names the item in logs and errors.
    audio, noise, noisy_audio: (N,) float32 in [-1, 1]; `noise` is what is added to `audio`, zero past `noise_len`.
    audio_len, noise_len, noisy_audio_len: () int64, in samples.
    seed: drawn from (data set seed, epoch, index); everything random that happens to the item later, such as
        batch augmentation and (in validation) masks, starts from it. None: the global generators are used.
    """

    sample_id: str | None = None
    audio: Tensor | None = None
    audio_len: Tensor | None = None
    noise: Tensor | None = None
    noise_len: Tensor | None = None
    noisy_audio: Tensor | None = None
    noisy_audio_len: Tensor | None = None
    seed: int | None = None


@dataclass
class AudioNoiseBatch:
    """A padded batch (B utterances, N samples of the longest); Lightning moves its tensors between devices.

    sample_id: the names of the items.
    audio, noise, noisy_audio: (B, N) float32, zero past their lengths; noisy_audio = audio + noise.
    audio_len, noise_len, noisy_audio_len: (B,) int64, in samples.
    seeds: (B,) int64, one per item (see `AudioNoiseItem.seed`), or None.
    """

    sample_id: list | None = None
    audio: Tensor | None = None
    audio_len: Tensor | None = None
    noise: Tensor | None = None
    noise_len: Tensor | None = None
    noisy_audio: Tensor | None = None
    noisy_audio_len: Tensor | None = None
    seeds: Tensor | None = None
