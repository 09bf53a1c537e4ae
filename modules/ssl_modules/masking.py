"""What the model must not see: random blocks of frames, replaced by one embedding."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.classes import NeuralModule
from parts.seeded_random import seeded_uniform

SHORT_BLOCK = 8  # frames masked in utterances that NeMo 2.6 held too short for a random block


class RandomBlockMasking(NeuralModule):
    """Mask blocks of `block_size` frames at random places; blocks never reach beyond an utterance's length.

    Parameter, as in NeMo: `mask_embedding` (F,), N(0, 0.1) or all `mask_value`.

    With `allow_overlap`, every frame with room for a whole block behind it starts one with probability `mask_prob`.
    Without, ceil(length * mask_prob / block_size) blocks lie at different places of a grid that starts at a random
    frame; in short utterances they shrink, so that one more block than needed would fit.
    Distributions, and the mask for a given torch seed, are those of NeMo 3.0.0.

    feat_in: F.  block_size: frames.  freeze: don't train the embedding (a `mask_value` is never trained).
    max_mask_ratio: NeMo 3.0.0 takes 0.8 and ignores it. None is 3.0.0's behaviour; a value is the rule of NeMo 2.6,
        which masked the first 8 frames of utterances no longer than block_size / max_mask_ratio, and only those.
    min_masks: ours. An utterance with fewer blocks gets this many, as far as they fit; one that is shorter than a
        block is then masked from a random frame to its end (overlap) or in smaller blocks (no overlap). With the
        default config 54 % of 1 s utterances get no mask; with 1 each gets a block.
    detach: ours. In post_conv mode (`ConvFeatureMaskingWrapper`) train no layer before the mask, as NeMo 3.0.0;
        without effect in pre_conv mode, where no trained layer stands before it.
    `seeded`, ours too, makes masks that can be repeated utterance by utterance.
    """

    def __init__(
        self,
        feat_in: int,
        mask_prob: float = 0.5,
        block_size: int = 48,
        mask_value: float | None = None,
        freeze: bool = True,
        allow_overlap: bool = False,
        max_mask_ratio: float | None = None,
        min_masks: int = 0,
        detach: bool = True,
    ):
        super().__init__()
        if not 0.0 <= mask_prob <= 1.0:
            raise ValueError(f"masking.mask_prob={mask_prob} is not in [0, 1]")
        if block_size < 1:
            raise ValueError(f"masking.block_size={block_size} must be at least 1")
        if max_mask_ratio is not None and max_mask_ratio <= 0.0:
            raise ValueError(f"masking.max_mask_ratio={max_mask_ratio} must be above 0, or null")
        if min_masks < 0:
            raise ValueError(f"masking.min_masks={min_masks} must not be negative")
        self.mask_prob = mask_prob
        self.block_size = block_size
        self.max_mask_ratio = max_mask_ratio
        self.min_masks = min_masks
        self.detach = detach
        self.allow_overlap = allow_overlap
        self._seeds = None

        if mask_value is None:
            self.mask_embedding = nn.Parameter(torch.randn(feat_in) * 0.1)
        else:
            self.mask_embedding = nn.Parameter(torch.full((feat_in,), float(mask_value)), requires_grad=False)
        if freeze:
            self.freeze()

    def forward(self, input_feats: Tensor, input_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """
        input_feats: (B, F, T); input_lengths: (B,) in frames.
        Returns the features with the embedding put in, (B, F, T), and the mask, (B, F, T) in the features' dtype:
        1 on masked frames, the same over F.
        """
        draw = self._overlapping if self.allow_overlap else self._disjoint
        is_masked = draw(input_lengths, input_feats.shape[-1])
        if self.max_mask_ratio is not None:
            is_masked = self._mask_start_of_short(is_masked, input_lengths)
        is_masked = is_masked.unsqueeze(1)  # (B, 1, T)
        embedding = self.mask_embedding.to(input_feats.dtype).view(1, -1, 1)
        return torch.where(is_masked, embedding, input_feats), is_masked.to(input_feats.dtype).expand_as(input_feats)

    @contextmanager
    def seeded(self, seeds: Tensor | None) -> Iterator[None]:
        """Inside the `with` block the mask of row i depends on seeds[i] and its length only: not on the rest of the
        batch, its width or the device. seeds: (B,) int64, or None for torch's global generators as outside."""
        self._seeds, before = seeds, self._seeds
        try:
            yield
        finally:
            self._seeds = before

    def _uniform(self, lengths: Tensor, count: int, stream: int) -> Tensor:
        """(B, count) numbers in [0, 1)."""
        if self._seeds is None:
            return torch.rand(len(lengths), count, device=lengths.device)
        if len(self._seeds) != len(lengths):
            raise ValueError(f"masking has {len(self._seeds)} seeds for a batch of {len(lengths)}")
        return seeded_uniform(self._seeds.to(lengths.device), count, stream=stream)

    def _overlapping(self, lengths: Tensor, max_length: int) -> Tensor:
        """(B,) -> (B, T) bool."""
        frames = torch.arange(max_length, device=lengths.device)
        lengths = lengths.unsqueeze(1)
        last_start = lengths - self.block_size
        if self.min_masks > 0:  # utterances shorter than a block may start a cut one anywhere
            last_start = torch.where(last_start < 0, lengths - 1, last_start)
        uniform = self._uniform(lengths, max_length, stream=1).masked_fill(frames > last_start, torch.inf)
        starts = uniform < self.mask_prob
        if self.min_masks > 0:
            lowest = uniform.sort(1).values[:, min(self.min_masks, max_length) - 1].unsqueeze(1)
            starts |= (uniform <= lowest) & uniform.isfinite()
        padded = F.pad(starts.float().unsqueeze(1), (self.block_size - 1, 0))
        covered = F.max_pool1d(padded, self.block_size, stride=1).squeeze(1) > 0  # a start among the last frames
        return covered & (frames < lengths)

    def _disjoint(self, lengths: Tensor, max_length: int) -> Tensor:
        """(B,) -> (B, T) bool."""
        frames = torch.arange(max_length, device=lengths.device)
        blocks = torch.ceil(lengths * self.mask_prob / self.block_size).long().clamp(min=self.min_masks)
        needs_shrink = (blocks + 1) * self.block_size > lengths
        size = torch.where(needs_shrink, lengths // (blocks + 1), self.block_size).clamp(min=1).unsqueeze(1)
        slots = lengths.unsqueeze(1) // size - 1  # one slot is left free for the offset
        if self._seeds is None:
            # float32 rounds some whole quotients up, and NeMo takes it back only where the batch is no wider
            widest = math.ceil(max_length * self.mask_prob / self.block_size)
            blocks = blocks.clamp(max=max(widest, self.min_masks))

        scores = self._uniform(lengths, max_length, stream=1).masked_fill(frames >= slots, -torch.inf)
        offset = (self._uniform(lengths, 1, stream=2) * size).long()
        rank = scores.argsort(1, descending=True).argsort(1)
        chosen = (rank < blocks.unsqueeze(1)) & (frames < slots)  # (B, slots)

        slot = (frames - offset).div(size, rounding_mode="floor")  # of each frame; -1 before the grid
        return chosen.gather(1, slot.clamp(min=0)) & (slot >= 0)

    def _mask_start_of_short(self, is_masked: Tensor, lengths: Tensor) -> Tensor:
        frames = torch.arange(is_masked.shape[1], device=lengths.device)
        lengths = lengths.unsqueeze(1)
        is_short = self.block_size >= lengths * self.max_mask_ratio
        return torch.where(is_short, frames < lengths.clamp(max=SHORT_BLOCK), is_masked)


class ConvFeatureMaskingWrapper(NeuralModule):
    """Subsampling with a mask behind it, in the place of `encoder.pre_encode` (mask_position=post_conv).

    Differs from NeMo 3.0.0: `masking.detach=False` lets the gradient reach the subsampling; NeMo always cuts it,
    so its subsampling keeps its initial weights. Without masking the mask is (B, D, S) too, not (B, S, D).
    """

    def __init__(self, pre_encode_module: nn.Module, masking_module: RandomBlockMasking):
        super().__init__()
        self.pre_encode = pre_encode_module
        self.masking = masking_module
        self.curr_mask: Tensor | None = None
        self.curr_feat: Tensor | None = None
        self.apply_mask = False

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """
        As the subsampling itself: x (B, T, F), lengths (B,) in frames -> (B, S, D), (B,) in steps.
        Keeps the unmasked features (B, S, D), without gradient, and the mask (B, D, S) of the call.
        """
        features, lengths = self.pre_encode(x=x, lengths=lengths)
        self.curr_feat = features.detach()
        features = features.transpose(1, 2)  # (B, D, S)
        if self.apply_mask:
            features, self.curr_mask = self.masking(input_feats=features, input_lengths=lengths)
            if self.masking.detach:
                features = features.detach()
        else:
            self.curr_mask = torch.zeros_like(features)
        return features.transpose(1, 2), lengths

    def set_masking_enabled(self, apply_mask: bool) -> None:
        """Mask in the following calls, or not."""
        self.apply_mask = apply_mask

    def get_current_mask(self) -> Tensor | None:
        """(B, D, S) of the last call, 1 on masked steps."""
        return self.curr_mask

    def get_current_feat(self) -> Tensor | None:
        """(B, S, D) of the last call, before masking."""
        return self.curr_feat


ConvFeatureMaksingWrapper = ConvFeatureMaskingWrapper  # the name as NeMo spells it
