"""Masked prediction: negative log-likelihood of the codes of masked steps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from core.classes import Loss, typecheck
from core.neural_types import LabelsType, LengthsType, LogprobsType, LossType, NeuralType
from parts.masks import frames_to_steps

LENGTHS = NeuralType(("B",), LengthsType(), optional=True)


def masked_prediction_loss(log_probs: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood, in nats, over M selected steps and Q books.

    log_probs: (M, V, Q); targets: (M, Q) int64. A training step that runs the decoder on the masked states only
    gets the same loss as `MultiMLMLoss` on all of them.
    Nothing selected: 0 with a graph, because DDP waits for a gradient of every parameter (NeMo 3.0.0: NaN).
    """
    log_probs = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
    # rows, not nll_loss's own trailing axis: that kernel has no deterministic version on CUDA
    total = F.nll_loss(log_probs.transpose(1, 2).flatten(0, 1), targets.flatten(), reduction="sum")
    return total / max(1, targets.numel())


class MLMLoss(Loss):
    """`masked_prediction_loss` of one codebook over the steps whose frames are mostly masked.

    combine_time_steps: frames per encoder step.
    mask_threshold: a step is scored when more than this share of its frames is masked.

    Differs from NeMo 3.0.0: 0 instead of NaN when nothing is masked; a number of steps that differs between mask,
    predictions and targets is an error (NeMo pads targets with code 0 or crops them); float32 or better always.
    """

    def __init__(self, combine_time_steps: int = 1, mask_threshold: float = 0.8):
        super().__init__()
        if combine_time_steps < 1:
            raise ValueError(f"loss.combine_time_steps={combine_time_steps} must be at least 1")
        if not 0.0 <= mask_threshold < 1.0:
            raise ValueError(f"loss.mask_threshold={mask_threshold} is not in [0, 1): no step could be scored")
        self.combine_time_steps = combine_time_steps
        self.mask_threshold = mask_threshold

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "spec_masks": NeuralType(("B", "F", "T"), optional=True),
            "decoder_outputs": NeuralType(("B", "S", "V"), LogprobsType()),
            "targets": NeuralType(("B", "S"), LabelsType()),
            "decoder_lengths": LENGTHS,
            "target_lengths": LENGTHS,
            "masks": NeuralType(("B", "F", "T"), optional=True),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {"loss": NeuralType((), LossType())}

    @typecheck()
    def forward(
        self,
        decoder_outputs: Tensor,
        targets: Tensor,
        decoder_lengths: Tensor | None = None,
        target_lengths: Tensor | None = None,
        spec_masks: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> Tensor:
        """
        decoder_outputs: (B, S, V) log-probabilities; targets: (B, S).
        masks, or else spec_masks: (B, F, T), 1 on masked frames, none beyond an item's length. One is needed.
        decoder_lengths, target_lengths: not needed, since no mask lies beyond them; kept for NeMo's callers.
        """
        if masks is None:
            masks = spec_masks
        if masks is None:
            raise ValueError("MLMLoss needs masks or spec_masks: without a mask there is nothing to predict")
        return score(decoder_outputs.unsqueeze(-1), targets.unsqueeze(-1), self.is_scored(masks))

    def is_scored(self, is_masked: Tensor) -> Tensor:
        """(B, T) or (B, F, T) masked frames -> (B, S) scored steps."""
        return frames_to_steps(is_masked, factor=self.combine_time_steps, threshold=self.mask_threshold)


class MultiMLMLoss(Loss):
    """`masked_prediction_loss` of Q codebooks, each with its own softmax, averaged.

    combine_time_steps, mask_threshold: as in `MLMLoss`.
    num_decoders: Q.  squeeze_single: with one book, predictions and targets come without the axis Q.
    Source: arXiv:2202.01855.
    """

    def __init__(
        self,
        combine_time_steps: int = 1,
        mask_threshold: float = 0.8,
        num_decoders: int = 1,
        squeeze_single: bool = False,
    ):
        super().__init__()
        self.num_decoders = num_decoders
        self.squeeze_books = squeeze_single and num_decoders == 1
        self.mlm_loss = MLMLoss(combine_time_steps, mask_threshold)

    @property
    def input_types(self) -> dict[str, NeuralType]:
        books = () if self.squeeze_books else ("Q",)
        return {
            "masks": NeuralType(("B", "F", "T")),
            "decoder_outputs": NeuralType(("B", "S", "V", *books), LogprobsType()),
            "targets": NeuralType(("B", "S", *books), LabelsType()),
            "decoder_lengths": LENGTHS,
            "target_lengths": LENGTHS,
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {"loss": NeuralType((), LossType())}

    @typecheck()
    def forward(
        self,
        masks: Tensor,
        decoder_outputs: Tensor,
        targets: Tensor,
        decoder_lengths: Tensor | None = None,
        target_lengths: Tensor | None = None,
    ) -> Tensor:
        """
        masks: (B, F, T), 1 on masked frames; decoder_outputs: (B, S, V, Q) log-probabilities; targets: (B, S, Q).
        decoder_lengths, target_lengths: as in `MLMLoss`.
        """
        if self.squeeze_books:
            decoder_outputs, targets = decoder_outputs.unsqueeze(-1), targets.unsqueeze(-1)
        if {decoder_outputs.shape[-1], targets.shape[-1]} != {self.num_decoders}:
            raise ValueError(
                f"loss.num_decoders={self.num_decoders}, but predictions are for {decoder_outputs.shape[-1]} books and "
                f"targets for {targets.shape[-1]}: model.num_books sets all three"
            )
        return score(decoder_outputs, targets, self.is_scored(masks))

    def is_scored(self, is_masked: Tensor) -> Tensor:
        """As in `MLMLoss`."""
        return self.mlm_loss.is_scored(is_masked)


def score(log_probs: Tensor, targets: Tensor, is_scored: Tensor) -> Tensor:
    """log_probs: (B, S, V, Q); targets: (B, S, Q); is_scored: (B, S) -> ()."""
    check_steps(is_scored.shape[1], log_probs.shape[1], targets.shape[1])
    return masked_prediction_loss(log_probs[is_scored], targets[is_scored])


def check_steps(in_mask: int, in_predictions: int, in_targets: int) -> None:
    """Raise ValueError unless mask, predictions and targets have the same number of steps."""
    if not in_mask == in_predictions == in_targets:
        raise ValueError(
            f"the mask has {in_mask} steps, the predictions {in_predictions}, the targets {in_targets}: "
            "loss.combine_time_steps and quantizer.combine_time_steps must be encoder.subsampling_factor, without "
            "encoder.causal_downsampling and encoder.reduction; or use mask_position=post_conv"
        )
