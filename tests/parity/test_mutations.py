"""Negative controls: each breaks our code in one way that a port can go wrong, and the parity tests must see where."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losses.ssl_losses import mlm
from models.ssl_models import EncDecDenoiseMaskedTokenPredModel
from modules import conformer_encoder
from modules.conformer_encoder import ConformerEncoder
from modules.ssl_modules.quantizers import RandomProjectionVectorQuantizer
from parts.preprocessing.features import FilterbankFeatures
from parts.submodules import subsampling
from parts.submodules.attention_options import AttentionOptions
from parts.submodules.conformer_block import ConformerBlock
from parts.submodules.convolution import NORM, ConformerConvolution
from parts.submodules.positions import RelativePositions
from parts.submodules.subsampling import MaskedConvolutions
from tools.parity.cases import CASES, OURS, SEED, seed_everything, shift_weights
from tools.parity.compare import compare_with
from tools.parity.invariants import INVARIANTS, evaluate, two_utterances
from tools.parity.records import kept

Patch = pytest.MonkeyPatch


def convolution_before_attention(patch: Patch) -> None:
    def forward(self, x, positions, attention_mask, padding):
        x = x + 0.5 * self.dropout(self.feed_forward1(self.norm_feed_forward1(x)))
        x = x + self.dropout(self.conv(self.norm_conv(x), padding))
        x = x + self.dropout(self.self_attn(self.norm_self_att(x), positions, attention_mask))
        x = x + 0.5 * self.dropout(self.feed_forward2(self.norm_feed_forward2(x)))
        return self.norm_out(x)

    patch.setattr(ConformerBlock, "forward", forward)


def extra_dropout(patch: Patch) -> None:
    forward = ConformerBlock.forward
    patch.setattr(ConformerBlock, "forward", lambda self, *args: F.dropout(forward(self, *args), 0.1, self.training))


def reshape_that_scrambles_time(patch: Patch) -> None:
    forward = MaskedConvolutions.forward

    def scrambled(self, x, lengths):
        x, lengths = forward(self, x, lengths)
        b, c, s, f = x.shape
        return x.reshape(b, s, c, f).transpose(1, 2), lengths  # what follows makes x.reshape(b, s, c * f) of it

    patch.setattr(MaskedConvolutions, "forward", scrambled)


def attention_to_padding(patch: Patch) -> None:
    masks = ConformerEncoder.masks

    def no_padding(self, x, lengths, context):
        padding, _ = masks(self, x, lengths, context)
        return padding, self.attention.mask(torch.zeros_like(padding), context, self.att_context_style)

    patch.setattr(ConformerEncoder, "masks", no_padding)


def convolution_over_padding(patch: Patch) -> None:
    forward = ConformerConvolution.forward
    patch.setattr(ConformerConvolution, "forward", lambda self, x, padding: forward(self, x, torch.zeros_like(padding)))


def subsampling_over_padding(patch: Patch) -> None:
    patch.setattr(subsampling, "zero_padding", lambda x, lengths: x)


def lengths_rounded_down(patch: Patch) -> None:
    length_after = subsampling.length_after

    def rounded_down(length, **layer):
        return length // layer["stride"] if isinstance(length, torch.Tensor) else length_after(length, **layer)

    patch.setattr(subsampling, "length_after", rounded_down)


def no_xscaling(patch: Patch) -> None:
    patch.setattr(AttentionOptions, "input_scale", 1.0)


def positions_backwards(patch: Patch) -> None:
    offsets = RelativePositions.offsets
    patch.setattr(RelativePositions, "offsets", lambda self, x: -offsets(self, x))


def frozen_batch_statistics(patch: Patch) -> None:
    patch.setitem(NORM, "batch_norm", partial(nn.BatchNorm1d, momentum=0.0))


def kept_statistics_in_training(patch: Patch) -> None:
    class Kept(nn.BatchNorm1d):
        def train(self, mode=True):
            return super().train(False)

    patch.setitem(NORM, "batch_norm", Kept)


def targets_from_noisy_speech(patch: Patch) -> None:
    predict = EncDecDenoiseMaskedTokenPredModel._predict_pre_conv

    def from_noisy(self, features, apply_mask):
        return predict(self, replace(features, clean=features.noisy), apply_mask)

    patch.setattr(EncDecDenoiseMaskedTokenPredModel, "_predict_pre_conv", from_noisy)


def no_preemphasis(patch: Patch) -> None:
    waveform = FilterbankFeatures._waveform

    def without(self, x, lengths):
        self.preemph = None
        return waveform(self, x, lengths)

    patch.setattr(FilterbankFeatures, "_waveform", without)


def tokens_of_bins_stacked_as_frames(patch: Patch) -> None:
    stack = RandomProjectionVectorQuantizer._stack
    patch.setattr(
        RandomProjectionVectorQuantizer,
        "_stack",
        lambda self, frames: stack(self, frames.transpose(1, 2).reshape(frames.shape)),
    )


def codes_on_the_wrong_axis(patch: Patch) -> None:
    forward = RandomProjectionVectorQuantizer.forward

    def scrambled(self, **inputs):
        xq, xid = forward(self, **inputs)
        return xq.transpose(1, 2).reshape(xq.shape), xid

    patch.setattr(RandomProjectionVectorQuantizer, "forward", scrambled)


def threshold_reached_is_enough(patch: Patch) -> None:
    def frames_to_steps(is_masked, *, factor, threshold):
        return is_masked[:, 0].unflatten(-1, (-1, factor)).mean(2) >= threshold

    patch.setattr(mlm, "frames_to_steps", frames_to_steps)


def loss_over_all_steps(patch: Patch) -> None:
    steps = mlm.frames_to_steps
    patch.setattr(mlm, "frames_to_steps", lambda masks, **options: torch.ones_like(steps(masks, **options)))


def contexts_never_drawn(patch: Patch) -> None:
    patch.setattr(ConformerEncoder, "draw_context", lambda self: self.att_context_size)


def layers_never_skipped(patch: Patch) -> None:
    patch.setattr(conformer_encoder, "skip_at_random", lambda before, after, drop_prob: after)


@dataclass(frozen=True)
class Seen:
    """A mutation, the record that shows it, and the level at which it must first be seen."""

    mutation: Callable[[Patch], None]
    record: str
    level: str


SEEN_BY_PARITY = [
    Seen(convolution_before_attention, "model_pre_conv_1_book", "layer"),
    Seen(extra_dropout, "model_pre_conv_1_book", "training_layer"),
    Seen(reshape_that_scrambles_time, "model_pre_conv_1_book", "subsampled"),
    Seen(attention_to_padding, "model_pre_conv_1_book", "layer"),
    Seen(attention_to_padding, "encoder_abs_pos_limited", "layer"),
    Seen(attention_to_padding, "encoder_local_uneven_window", "layer"),
    Seen(convolution_over_padding, "model_pre_conv_1_book", "layer"),
    Seen(subsampling_over_padding, "model_pre_conv_1_book", "subsampled"),
    Seen(subsampling_over_padding, "encoder_causal_striding", "subsampled"),
    Seen(lengths_rounded_down, "model_pre_conv_1_book", "length"),
    Seen(lengths_rounded_down, "encoder_causal_striding", "length"),
    Seen(no_xscaling, "model_pre_conv_1_book", "layer"),
    Seen(positions_backwards, "model_pre_conv_1_book", "layer"),
    Seen(frozen_batch_statistics, "model_pre_conv_1_book", "batch_norm"),
    Seen(kept_statistics_in_training, "model_pre_conv_1_book", "training_layer"),
    Seen(targets_from_noisy_speech, "model_pre_conv_1_book", "code"),
    Seen(targets_from_noisy_speech, "model_pre_conv_2_books", "token"),
    Seen(no_preemphasis, "model_pre_conv_1_book", "feature"),
    Seen(tokens_of_bins_stacked_as_frames, "model_pre_conv_2_books", "token"),
    Seen(codes_on_the_wrong_axis, "model_pre_conv_1_book", "code"),
    Seen(threshold_reached_is_enough, "model_pre_conv_2_books", "loss"),
    Seen(loss_over_all_steps, "model_pre_conv_1_book", "loss"),
    Seen(contexts_never_drawn, "encoder_contexts_drawn_in_training", "training_layer"),
    Seen(layers_never_skipped, "encoder_stochastic_depth", "training_layer"),
]


@pytest.mark.parametrize("seen", SEEN_BY_PARITY, ids=lambda seen: f"{seen.mutation.__name__}-{seen.record}")
def test_parity_sees(seen, monkeypatch, tmp_path):
    record = kept(seen.record)
    assert compare_with(record, tmp_path).failed == []
    seen.mutation(monkeypatch)
    assert compare_with(record, tmp_path).failed[0].level == seen.level


SEEN_BY_INVARIANTS = [
    (reshape_that_scrambles_time, "padding amount"),
    (reshape_that_scrambles_time, "the rest of the batch"),
    (attention_to_padding, "padding amount"),
    (attention_to_padding, "the rest of the batch"),
    (convolution_over_padding, "padding amount"),
    (convolution_over_padding, "the rest of the batch"),
    (subsampling_over_padding, "padding of the features"),
    (tokens_of_bins_stacked_as_frames, "padding amount"),
]


@pytest.mark.parametrize(("mutation", "what"), SEEN_BY_INVARIANTS)
def test_an_invariant_sees(mutation, what, monkeypatch):
    assert INVARIANTS[what](small_model()) < 2e-5
    mutation(monkeypatch)
    assert INVARIANTS[what](small_model()) > 1e-3


def test_reported_lengths_see_rounding_down(monkeypatch):
    assert evaluate(small_model(), *two_utterances()).lengths.tolist() == [15, 11]  # of 117 and 85 frames
    lengths_rounded_down(monkeypatch)
    assert evaluate(small_model(), *two_utterances()).lengths.tolist() == [14, 10]


def small_model() -> nn.Module:
    seed_everything(SEED)
    model = CASES["model_pre_conv_1_book"].build(OURS)
    shift_weights(model, SEED)
    return model.eval()
