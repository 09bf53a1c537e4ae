"""Short utterances, made long enough."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _repeat(audio: Tensor, min_len: int) -> Tensor:
    return audio.repeat(-(-min_len // len(audio)))[:min_len]


def _append_zeros(audio: Tensor, min_len: int) -> Tensor:
    return F.pad(audio, (0, min_len - len(audio)))


PAD_AUDIO_MODES: dict[str, Callable[[Tensor, int], Tensor]] = {"repeat": _repeat, "zero": _append_zeros}


def check_pad_audio_mode(pad_audio_mode: str) -> None:
    """Raise ValueError for what isn't a key of `PAD_AUDIO_MODES`."""
    if pad_audio_mode not in [*PAD_AUDIO_MODES]:
        raise ValueError(f"pad_audio_mode={pad_audio_mode!r} is not one of {sorted(PAD_AUDIO_MODES)}")


def pad_audio(audio: Tensor, min_len: int, pad_audio_mode: str) -> Tensor:
    """Make (N,) audio at least `min_len` samples long, by repeating it or with zeros; none at all becomes zeros."""
    check_pad_audio_mode(pad_audio_mode)
    if len(audio) >= min_len:
        return audio
    if len(audio) == 0:
        return torch.zeros(min_len)
    return PAD_AUDIO_MODES[pad_audio_mode](audio, min_len)
