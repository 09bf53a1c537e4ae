"""Cut random stripes and rectangles out of a spectrogram."""

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn

from parts.draws import as_generator, draw_uniform


class SpecAugment(nn.Module):
    """Fill random stripes of frames and of mel bins with `mask_value` (SpecAugment, arXiv:1904.08779).

    freq_masks, time_masks: stripes per item. freq_width: widest stripe in bins.
    time_width: widest stripe in frames (int), or as a share of the item's length (float in [0, 1]).
    use_vectorized_code: which of NeMo's two distributions to draw from, see `STRIPES`; both run without a loop here.
    rng: draw from this generator instead of torch's (NeMo 3.0.0 ignores it in its vectorised code).
    Source: NeMo 3.0.0 `SpecAugment`; the same stripes for the same torch seed.
    """

    def __init__(
        self,
        freq_masks: int = 0,
        time_masks: int = 0,
        freq_width: int = 10,
        time_width: int | float = 10,
        rng: random.Random | int | None = None,
        mask_value: float = 0.0,
        use_vectorized_code: bool = True,
    ):
        super().__init__()
        if not isinstance(freq_width, int):
            raise ValueError(f"spec_augment.freq_width={freq_width!r} must be a whole number of bins")
        if not isinstance(time_width, int) and not 0.0 <= time_width <= 1.0:
            raise ValueError(f"spec_augment.time_width={time_width!r} must be an int (frames) or a share in [0, 1]")
        self.freq_masks = freq_masks
        self.time_masks = time_masks
        self.freq_width = freq_width
        self.time_width = time_width
        self.mask_value = mask_value
        self._rng = as_generator(rng)
        self._draw_stripes = STRIPES["vectorized" if use_vectorized_code else "legacy"]

    @torch.no_grad()
    def forward(self, input_spec: Tensor, length: Tensor) -> Tensor:
        """input_spec: (B, F, T); length: (B,) frames. Returns a new (B, F, T)."""
        batch_size, num_bins, num_frames = input_spec.shape
        bins = length.new_full((batch_size, 1), num_bins)
        frames = length[:, None]
        time_width = self.time_width
        if isinstance(time_width, float):
            time_width = time_width * frames
        is_cut_frame = self._stripes(self.time_masks, frames, time_width, num_frames)
        is_cut_bin = self._stripes(self.freq_masks, bins, self.freq_width, num_bins)
        return input_spec.masked_fill(is_cut_frame[:, None, :] | is_cut_bin[:, :, None], self.mask_value)

    def _stripes(self, number: int, total: Tensor, max_width: Tensor | int, size: int) -> Tensor:
        """total: (B, 1) valid positions; max_width: int or (B, 1). Returns (B, size) bool."""
        shape = (total.shape[0], number)
        width_draw = draw_uniform(shape, self._rng, total.device)
        start_draw = draw_uniform(shape, self._rng, total.device)
        start, width = self._draw_stripes(width_draw, start_draw, total, max_width)      # (B, number) each
        return intervals(start, width, size).any(dim=1)


class SpecCutout(nn.Module):
    """Set random rectangles to zero (Cutout, arXiv:1708.04552).

    rect_masks: rectangles per item; rect_time, rect_freq: largest sides in frames and bins.
    The caller's tensor stays as it is, and spectrograms smaller than a rectangle are fine (NeMo 3.0.0: changed in
    place; raises).
    """

    def __init__(
        self, rect_masks: int = 0, rect_time: int = 5, rect_freq: int = 20, rng: random.Random | int | None = None
    ):
        super().__init__()
        self.rect_masks = rect_masks
        self.rect_time = rect_time
        self.rect_freq = rect_freq
        self._rng = as_generator(rng)

    @torch.no_grad()
    def forward(self, input_spec: Tensor) -> Tensor:
        """(B, F, T) -> new (B, F, T)."""
        in_bins = self._sides(input_spec, self.rect_freq, axis=1)                        # (B, rectangles, F)
        in_frames = self._sides(input_spec, self.rect_time, axis=2)                      # (B, rectangles, T)
        is_cut = (in_bins[:, :, :, None] & in_frames[:, :, None, :]).any(dim=1)          # (B, F, T)
        return input_spec.masked_fill(is_cut, 0.0)

    def _sides(self, spec: Tensor, max_width: int, axis: int) -> Tensor:
        shape = (spec.shape[0], self.rect_masks)
        size = spec.shape[axis]
        width = (draw_uniform(shape, self._rng, spec.device) * (max_width + 1)).long()
        start = (draw_uniform(shape, self._rng, spec.device) * (max(0, size - max_width) + 1)).long()
        return intervals(start, width, size)


def intervals(start: Tensor, width: Tensor, size: int) -> Tensor:
    """(B, M) starts and widths -> (B, M, size) bool: True inside each interval."""
    position = torch.arange(size, device=start.device)
    return (position >= start[..., None]) & (position < (start + width)[..., None])


def start_fits_width(width_draw: Tensor, start_draw: Tensor, total: Tensor, max_width: Tensor | int):
    """Widths 0 to max_width - 1; a start anywhere the drawn width still fits."""
    width = (width_draw * max_width).long()
    return (start_draw * (total - width)).long(), width


def start_fits_widest(width_draw: Tensor, start_draw: Tensor, total: Tensor, max_width: Tensor | int):
    """Widths 0 to max_width; a start anywhere the widest would fit."""
    widest = max_width.long().clamp(min=1) if isinstance(max_width, Tensor) else max_width
    width = (width_draw * (widest + 1)).long()
    return (start_draw * ((total - widest).clamp(min=1) + 1)).long(), width


STRIPES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {  # each: draws (B, M), total, max_width -> start, width
    "vectorized": start_fits_width,
    "legacy": start_fits_widest,
}
