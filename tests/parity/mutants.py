"""Mutations of our code, each as a port can go wrong, and what the comparison with NeMo must say of it."""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.optim.phases import Schedule
from losses.ssl_losses import mlm
from models.ssl_models import EncDecDenoiseMaskedTokenPredModel
from modules import conformer_encoder
from modules.conformer_encoder import ConformerEncoder
from modules.ssl_modules import quantizers
from modules.ssl_modules.masking import ConvFeatureMaskingWrapper, RandomBlockMasking
from modules.ssl_modules.multi_softmax_decoder import MultiSoftmaxDecoder
from modules.ssl_modules.quantizers import RandomProjectionVectorQuantizer
from parts.preprocessing import mel
from parts.preprocessing.features import FilterbankFeatures
from parts.submodules import convolution, subsampling
from parts.submodules.attention import PlainAttend, RelativeAttention
from parts.submodules.attention_options import AttentionOptions
from parts.submodules.conformer_block import ConformerBlock, FeedForward
from parts.submodules.convolution import NORM, ConformerConvolution
from parts.submodules.positions import RelativePositions
from parts.submodules.reduction import PoolingReduction
from parts.submodules.subsampling import MaskedConvolutions
from tools.parity.aspects.computation import NAME

Patch = pytest.MonkeyPatch


def edit(patch: Patch, owner: object, name: str, old: str, new: str) -> None:
    """Give `owner` the function `name` with another piece of source."""
    function = getattr(owner, name)
    source, scope = textwrap.dedent(inspect.getsource(function)), {}
    assert source.count(old) == 1, f"{name} has {old!r} {source.count(old)} times"
    exec(source.replace(old, new), function.__globals__, scope)
    patch.setattr(owner, name, scope[name])


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


def another_window(patch: Patch) -> None:
    init = FilterbankFeatures.__init__

    def hamming(self, *args, **options):
        init(self, *args, **options)
        self.window = torch.hamming_window(len(self.window), periodic=False)

    patch.setattr(FilterbankFeatures, "__init__", hamming)


def projection_not_normalised(patch: Patch) -> None:
    def best_codes(steps, projection, codebooks, offsets):
        x = F.linear(steps.to(projection.dtype), projection).unflatten(1, (len(codebooks), -1)).transpose(0, 1)
        return torch.baddbmm(offsets.unsqueeze(1), x, codebooks.transpose(1, 2), beta=-1).argmax(-1).T

    patch.setattr(quantizers, "best_codes", best_codes)


def transposed_codebook(patch: Patch) -> None:
    best_codes = quantizers.best_codes

    def transposed(steps, projection, codebooks, offsets):
        return best_codes(steps, projection, codebooks.transpose(1, 2).reshape(codebooks.shape), offsets)

    patch.setattr(quantizers, "best_codes", transposed)


def positions_shifted(patch: Patch) -> None:
    offsets = RelativePositions.offsets
    patch.setattr(RelativePositions, "offsets", lambda self, x: offsets(self, x) + 1)


def schedule_one_ahead(patch: Patch) -> None:
    patch.setattr(Schedule, "get_lr", lambda self: [self.rate(lr, self.last_epoch + 1) for lr in self.base_lrs])


def schedule_one_behind(patch: Patch) -> None:
    patch.setattr(Schedule, "get_lr", lambda self: [self.rate(lr, self.last_epoch - 1) for lr in self.base_lrs])


def whole_feed_forward(patch: Patch) -> None:
    forward = FeedForward.forward
    patch.setattr(FeedForward, "forward", lambda self, x: 2 * forward(self, x))


def dropout_in_evaluation(patch: Patch) -> None:
    forward = FeedForward.forward
    patch.setattr(FeedForward, "forward", lambda self, x: F.dropout(forward(self, x), 0.2, training=True))


def gate_halves_swapped(patch: Patch) -> None:
    patch.setattr(convolution.F, "glu", lambda x, dim: x.chunk(2, dim)[1] * x.chunk(2, dim)[0].sigmoid())


def convolution_looks_ahead(patch: Patch) -> None:
    init = ConformerConvolution.__init__

    def shifted(self, *args, **options):
        init(self, *args, **options)
        self.context = (self.context[0] - 1, self.context[1] + 1)

    patch.setattr(ConformerConvolution, "__init__", shifted)


def position_biases_swapped(patch: Patch) -> None:
    forward = RelativeAttention.forward

    def swapped(self, *args):
        u, v = self._parameters["pos_bias_u"], self._parameters["pos_bias_v"]
        self._parameters |= {"pos_bias_u": v, "pos_bias_v": u}
        try:
            return forward(self, *args)
        finally:
            self._parameters |= {"pos_bias_u": u, "pos_bias_v": v}

    patch.setattr(RelativeAttention, "forward", swapped)


def attention_without_gradient(patch: Patch) -> None:
    forward = RelativeAttention.forward
    patch.setattr(RelativeAttention, "forward", lambda self, x, *rest: forward(self, x.detach(), *rest))


def half_precision_attention(patch: Patch) -> None:
    forward = RelativeAttention.forward
    patch.setattr(RelativeAttention, "forward", lambda self, *args: forward(self, *args).bfloat16().float())


def wrong_axis_in_the_decoder(patch: Patch) -> None:
    log_probs = MultiSoftmaxDecoder.log_probs

    def scrambled(self, states):
        return log_probs(self, states.transpose(1, 2).reshape(states.shape) if states.dim() == 3 else states)

    patch.setattr(MultiSoftmaxDecoder, "log_probs", scrambled)


def targets_one_step_late(patch: Patch) -> None:
    predict = EncDecDenoiseMaskedTokenPredModel._predict_pre_conv

    def late(self, features, apply_mask):
        *others, tokens = predict(self, features, apply_mask)
        return *others, tokens.roll(1, dims=1)

    patch.setattr(EncDecDenoiseMaskedTokenPredModel, "_predict_pre_conv", late)


def step_scores_everything(patch: Patch) -> None:
    step = EncDecDenoiseMaskedTokenPredModel.step

    def everything(self, batch, **options):
        is_scored = self.loss.is_scored
        self.loss.is_scored = lambda masks: torch.ones_like(is_scored(masks))
        try:
            return step(self, batch, **options)
        finally:
            self.loss.is_scored = is_scored

    patch.setattr(EncDecDenoiseMaskedTokenPredModel, "step", everything)


def convolution_raises(patch: Patch) -> None:
    forward = ConformerConvolution.forward
    patch.setattr(ConformerConvolution, "forward", lambda self, x, padding: forward(self, x[..., 1:], padding))


def another_weight(patch: Patch) -> None:
    init = RelativeAttention.__init__

    def with_bias(self, options):
        init(self, options)
        self.linear_pos = nn.Linear(options.d_model, options.d_model)

    patch.setattr(RelativeAttention, "__init__", with_bias)


def filters_of_another_area(patch: Patch) -> None:
    gains = mel.filter_gains
    patch.setattr(mel, "filter_gains", lambda *args: 0.99 * gains(*args))


def features_slightly_larger(patch: Patch) -> None:
    forward = FilterbankFeatures.forward

    def larger(self, x, seq_len, linear_spec=False):
        x, frames = forward(self, x, seq_len, linear_spec)
        return x * 1.0005, frames

    patch.setattr(FilterbankFeatures, "forward", larger)


def features_shifted_in_training(patch: Patch) -> None:
    edit(patch, FilterbankFeatures, "_padded", "return ", "return 1e-3 * self.training + ")


def clean_for_noisy_in_training(patch: Patch) -> None:
    edit(patch, EncDecDenoiseMaskedTokenPredModel, "features", "clean, noisy = both", "noisy, clean = both")


def codes_late_in_training(patch: Patch) -> None:
    forward = RandomProjectionVectorQuantizer.forward

    def late(self, **inputs):
        xq, xid = forward(self, **inputs)
        return (xq, xid.roll(1, dims=1)) if self.training else (xq, xid)

    patch.setattr(RandomProjectionVectorQuantizer, "forward", late)


def scaled_again_behind_the_reduction(patch: Patch) -> None:
    edit(patch, ConformerEncoder, "layer_outputs", "_, positions = ", "x, positions = ")


def smaller_content_bias(patch: Patch) -> None:
    edit(patch, RelativeAttention, "forward", "self.pos_bias_u", "0.9 * self.pos_bias_u")


def pooled_by_the_mean(patch: Patch) -> None:
    edit(patch, PoolingReduction, "forward", "max_pool1d", "avg_pool1d")


def pooled_lengths_rounded_up(patch: Patch) -> None:
    edit(patch, PoolingReduction, "forward", "lengths // self.factor", "-(-lengths // self.factor)")


def gradient_in_front_of_the_mask(patch: Patch) -> None:
    edit(patch, ConvFeatureMaskingWrapper, "forward", "features = features.detach()", "pass")


def step_without_gradient(patch: Patch) -> None:
    edit(patch, EncDecDenoiseMaskedTokenPredModel, "step", "nullcontext()", "torch.no_grad()")


def rates_nearly_right(patch: Patch) -> None:
    rate = Schedule.get_lr
    patch.setattr(Schedule, "get_lr", lambda self: [lr * (1 + 5e-9) for lr in rate(self)])


def at_least_one_mask(patch: Patch) -> None:
    init = RandomBlockMasking.__init__
    *others, min_masks, detach = init.__defaults__
    patch.setattr(init, "__defaults__", (*others, min_masks + 1, detach))


def scores_in_half_precision(patch: Patch) -> None:
    forward = PlainAttend.forward

    def half(self, query, key, value, bias, hidden):
        return forward(self, query.bfloat16().float(), key, value, bias, hidden)

    patch.setattr(PlainAttend, "forward", half)


def layers_backwards(patch: Patch) -> None:
    forward = ConformerEncoder.forward

    def backwards(self, *args, **kwargs):
        layers = self.layers
        self.layers = nn.ModuleList(reversed(layers))
        try:
            return forward(self, *args, **kwargs)
        finally:
            self.layers = layers

    patch.setattr(ConformerEncoder, "forward", backwards)


@dataclass(frozen=True)
class Seen:
    """A mutation, the record that shows it, the level at which it must first be seen, the module to be blamed for it
    and what its cause begins with; "" where none is known.  aspects: of the record that are compared."""

    mutation: Callable[[Patch], None]
    record: str
    level: str
    module: str
    cause: str = ""
    aspects: tuple[str, ...] = (NAME,)


MODEL, BOOKS = "model_pre_conv_1_book", "model_pre_conv_2_books"
POST_CONV, POOLING = "model_post_conv_1_book", "encoder_reduction_at_the_end"
MASK = "missing padding mask"
SEEN_BY_PARITY = [
    Seen(convolution_before_attention, MODEL, "layer", "encoder.layers.0", "block order"),
    Seen(extra_dropout, MODEL, "training_layer", "encoder.layers.0", "dropout active"),
    Seen(dropout_in_evaluation, MODEL, "layer", "encoder.layers.0.feed_forward1", "dropout active"),
    Seen(reshape_that_scrambles_time, MODEL, "subsampled", "encoder.pre_encode.conv", "scrambled axes"),
    Seen(attention_to_padding, MODEL, "layer", "encoder", MASK),
    Seen(attention_to_padding, "encoder_abs_pos_limited", "layer", "(model)", MASK),
    Seen(attention_to_padding, "encoder_local_uneven_window", "layer", "(model)", MASK),
    Seen(convolution_over_padding, MODEL, "layer", "encoder.layers.0.conv", MASK),
    Seen(subsampling_over_padding, MODEL, "subsampled", "encoder.pre_encode.conv", MASK),
    Seen(subsampling_over_padding, "encoder_causal_striding", "subsampled", "pre_encode.conv", MASK),
    Seen(lengths_rounded_down, MODEL, "length", "encoder.pre_encode.conv", "floored lengths"),
    Seen(lengths_rounded_down, "encoder_causal_striding", "length", "pre_encode.conv"),
    Seen(scores_in_half_precision, MODEL, "layer", "encoder.layers.0.self_attn", "dtype"),
    Seen(layers_backwards, MODEL, "layer", "encoder", "block order"),
    Seen(no_xscaling, MODEL, "layer", "encoder.pos_enc", "constant factor"),
    Seen(whole_feed_forward, MODEL, "layer", "encoder.layers.0.feed_forward1", "constant factor"),
    Seen(positions_backwards, MODEL, "layer", "encoder.pos_enc", "reversed"),
    Seen(positions_shifted, MODEL, "layer", "encoder.pos_enc", "shifted"),
    Seen(position_biases_swapped, MODEL, "layer", "encoder.layers.0.self_attn"),
    Seen(half_precision_attention, MODEL, "layer", "encoder.layers.0.self_attn", "dtype"),
    Seen(gate_halves_swapped, MODEL, "layer", "encoder.layers.0.conv"),
    Seen(convolution_looks_ahead, MODEL, "layer", "encoder.layers.0.conv", "shifted"),
    Seen(wrong_axis_in_the_decoder, MODEL, "log_prob", "decoder"),
    Seen(frozen_batch_statistics, MODEL, "batch_norm", "encoder.layers.0.conv.batch_norm"),
    Seen(kept_statistics_in_training, MODEL, "training_layer", "encoder.layers.0.conv.batch_norm"),
    Seen(targets_from_noisy_speech, MODEL, "code", "(model)", "targets from the noisy speech"),
    Seen(targets_from_noisy_speech, BOOKS, "token", "(model)", "targets from the noisy speech"),
    Seen(targets_one_step_late, MODEL, "token", "(model)", "shifted"),
    Seen(another_window, MODEL, "feature", "preprocessor.featurizer", "wrong window: Hamming"),
    Seen(no_preemphasis, MODEL, "feature", "preprocessor.featurizer", "no preemphasis"),
    Seen(tokens_of_bins_stacked_as_frames, BOOKS, "token", "quantizer", "scrambled axes"),
    Seen(codes_on_the_wrong_axis, MODEL, "code", "quantizer", "scrambled axes"),
    Seen(projection_not_normalised, MODEL, "code", "quantizer", "un-normalised codes"),
    Seen(transposed_codebook, MODEL, "code", "quantizer", "transposed codebook"),
    Seen(threshold_reached_is_enough, BOOKS, "loss", "loss", "threshold"),
    Seen(loss_over_all_steps, MODEL, "loss", "loss", "loss over all steps"),
    Seen(step_scores_everything, MODEL, "training_loss", "(model)"),
    Seen(attention_without_gradient, MODEL, "gradient", "encoder.layers.1.self_attn"),
    Seen(schedule_one_ahead, MODEL, "learning_rate", "optim.sched", "schedule off by one"),
    Seen(schedule_one_behind, MODEL, "learning_rate", "optim.sched", "schedule off by one"),
    Seen(contexts_never_drawn, "encoder_contexts_drawn_in_training", "training_layer", "(model)"),
    Seen(layers_never_skipped, "encoder_stochastic_depth", "training_layer", "(model)"),
    Seen(convolution_raises, MODEL, "computation", "encoder.layers.0.conv"),
    Seen(another_weight, MODEL, "computation", "encoder.layers.0.self_attn.linear_pos"),
    Seen(filters_of_another_area, MODEL, "parameters", "preprocessor.featurizer", aspects=("parameters", NAME)),
    Seen(features_slightly_larger, MODEL, "subsampled", "preprocessor.featurizer", "constant factor"),
    Seen(features_shifted_in_training, MODEL, "training_subsampled", "preprocessor.featurizer"),
    Seen(clean_for_noisy_in_training, MODEL, "training_subsampled", "(model)"),
    Seen(codes_late_in_training, MODEL, "training_loss", "quantizer", "shifted"),
    Seen(scaled_again_behind_the_reduction, "encoder_reduction_striding", "encoded", "(model)", "constant factor"),
    Seen(smaller_content_bias, MODEL, "layer", "encoder.layers.0.self_attn"),
    Seen(pooled_by_the_mean, POOLING, "encoded", "reduction_subsampling"),
    Seen(pooled_lengths_rounded_up, POOLING, "length", "reduction_subsampling"),
    Seen(gradient_in_front_of_the_mask, POST_CONV, "gradient", "encoder.pre_encode"),
    Seen(step_without_gradient, MODEL, "gradient", "(model)"),
    Seen(rates_nearly_right, MODEL, "learning_rate", "optim.sched", "constant factor: each rate is NeMo's times 1 + 5"),
    Seen(at_least_one_mask, MODEL, "configuration", "mask_processor", aspects=("configuration", NAME)),
]
