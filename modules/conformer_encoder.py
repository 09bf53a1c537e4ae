"""Fast-Conformer: subsampling, positions, a stack of Conformer blocks."""

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from core.classes import NeuralModule, typecheck
from core.neural_types import (
    AcousticEncodedRepresentation,
    BoolType,
    ChannelType,
    LengthsType,
    NeuralType,
    SpectrogramType,
)
from parts.lengths import is_padding
from parts.submodules.attention_context import parse_contexts, parse_probs
from parts.submodules.attention_models import attention_model, tie_position_biases
from parts.submodules.attention_options import LOCAL, AttentionOptions
from parts.submodules.conformer_block import ConformerBlock
from parts.submodules.convolution import ConformerConvolution, convolution_context
from parts.submodules.reduction import build_reduction
from parts.submodules.stochastic_depth import drop_probabilities, skip_at_random
from parts.submodules.subsampling import ConvSubsampling, SubsamplingOptions, build_subsampling
from utils.logging import info_once


class ConformerEncoder(NeuralModule):
    """Mel spectrograms to encoder states.

    Sources: Conformer, arXiv:2005.08100; Fast-Conformer, arXiv:2305.05084. Arguments, in NeMo 3.0.0's order:

    feat_in: mel bins (F). n_layers: blocks. d_model: channels of a step (D). feat_out: channels of the output, through
        a projection when it is above 0 and not d_model.
    causal_downsampling: convolutions of the subsampling read no later step; stacking reads none anyhow.
    subsampling, subsampling_factor: a key of `SUBSAMPLING`; 2, 4, 8, or 1 for none.
    subsampling_conv_chunking_factor: pieces in which a batch is convolved (1: as many as needed, -1: one); memory only.
    subsampling_conv_channels: channels of convolutional subsampling; -1: d_model.
    reduction, reduction_position, reduction_factor: a key of `REDUCTION`: fewer steps after that block (-1: the end).
    ff_expansion_factor: channels inside a feed-forward layer, in multiples of d_model.
    self_attention_model: a key of `ATTENTION`. n_heads: must divide d_model.
    att_context_size: [left, right] in steps, -1 for all; a list of pairs is drawn from in training with
        att_context_probs (null: equally), and its first one is used in evaluation.
    att_context_style: a key of `CONTEXT_STYLES`. att_chunk_context_size: null only.
    xscaling: multiply the input of the blocks by sqrt(d_model). untie_biases: position biases per block, or shared.
    pos_emb_max_len, sync_max_audio_length: without effect; they size a table that isn't kept here (`positions.py`).
    conv_kernel_size, conv_norm_type: odd, in steps; a key of `NORM` or group_norm with a number of groups.
    conv_context_size: null (centred), 'causal' or [left, right]. conv_context_style: 'regular' only.
    use_bias: biases in the linear and convolution layers of the blocks.
    dropout, dropout_pre_encoder, dropout_emb, dropout_att: in the blocks, on their input, on positions, on attention.
    stochastic_depth_drop_prob, _mode, _start_layer: see `drop_probabilities`.
    global_tokens, global_tokens_spacing, global_attn_separate: see `LocalRelativeAttention`.
    use_pytorch_sdpa, use_pytorch_sdpa_backends: torch's fused attention; which of its backends, none named: any.
    conv_dual_mode: false only (NeMo documents it, and takes it no more).

    In evaluation an item's states depend neither on the padding behind it nor on the rest of the batch, but for
    group_norm and instance_norm, whose statistics include padding as NeMo's do.
    Raises ValueError, naming the option, for what can't be built or isn't implemented.
    """

    def __init__(
        self,
        feat_in: int, n_layers: int, d_model: int, feat_out: int = -1,
        causal_downsampling: bool = False, subsampling: str | None = "striding", subsampling_factor: int = 4,
        subsampling_conv_chunking_factor: int = 1, subsampling_conv_channels: int = -1,
        reduction: str | None = None, reduction_position: int | None = None, reduction_factor: int = 1,
        ff_expansion_factor: int = 4,
        self_attention_model: str = "rel_pos", n_heads: int = 4,
        att_context_size: Sequence | None = None, att_context_probs: Sequence[float] | None = None,
        att_chunk_context_size: Sequence | None = None, att_context_style: str = "regular",
        xscaling: bool = True, untie_biases: bool = True, pos_emb_max_len: int = 5000,
        conv_kernel_size: int = 31, conv_norm_type: str = "batch_norm",
        conv_context_size: str | Sequence[int] | None = None, conv_context_style: str = "regular",
        use_bias: bool = True,
        dropout: float = 0.1, dropout_pre_encoder: float = 0.1, dropout_emb: float = 0.1, dropout_att: float = 0.0,
        stochastic_depth_drop_prob: float = 0.0, stochastic_depth_mode: str = "linear",
        stochastic_depth_start_layer: int = 1,
        global_tokens: int = 0, global_tokens_spacing: int = 1, global_attn_separate: bool = False,
        use_pytorch_sdpa: bool = False, use_pytorch_sdpa_backends: Sequence[str] | None = None,
        sync_max_audio_length: bool = True,
        conv_dual_mode: bool = False,
    ):  # fmt: skip
        super().__init__()
        refuse_streaming(att_context_style, att_chunk_context_size, conv_context_style, conv_dual_mode)
        tell_what_has_no_effect(pos_emb_max_len, sync_max_audio_length)
        self._feat_in, self._feat_out = feat_in, feat_out if feat_out > 0 else d_model
        self.d_model, self.n_layers, self.subsampling_factor = d_model, n_layers, subsampling_factor
        self.att_context_size_all = parse_contexts(att_context_size, att_context_style)
        self.att_context_probs = parse_probs(att_context_probs, len(self.att_context_size_all))
        self.att_context_size = self.att_context_size_all[0]
        self.att_context_style = att_context_style
        self.conv_context_size = convolution_context(conv_context_size, conv_kernel_size)
        self.layer_drop_probs = drop_probabilities(
            n_layers, stochastic_depth_drop_prob, stochastic_depth_mode, stochastic_depth_start_layer
        )
        channels = d_model if subsampling_conv_channels == -1 else subsampling_conv_channels
        self.pre_encode = build_subsampling(subsampling, SubsamplingOptions(
            feat_in, d_model, subsampling_factor, channels, causal_downsampling, subsampling_conv_chunking_factor
        ))
        self.reduction_subsampling = build_reduction(reduction, d_model, reduction_factor, reduction_position, n_layers)
        options = self.attention_options = AttentionOptions(
            self_attention_model=self_attention_model, d_model=d_model, n_heads=n_heads, xscaling=xscaling,
            att_context_sizes=self.att_context_size_all, att_context_style=att_context_style, use_bias=use_bias,
            untie_biases=untie_biases, dropout_pre_encoder=dropout_pre_encoder, dropout_emb=dropout_emb,
            dropout_att=dropout_att, global_tokens=global_tokens, global_tokens_spacing=global_tokens_spacing,
            global_attn_separate=global_attn_separate, use_pytorch_sdpa=use_pytorch_sdpa,
            use_pytorch_sdpa_backends=tuple(use_pytorch_sdpa_backends or ()),
        )
        self.attention = attention_model(self_attention_model)
        self.pos_enc = self.attention.positions(options)
        self.layers = nn.ModuleList(
            ConformerBlock(
                d_model, d_model * ff_expansion_factor, self.attention.layer(options),
                ConformerConvolution(d_model, conv_kernel_size, self.conv_context_size, conv_norm_type, use_bias),
                dropout, use_bias,
            )
            for _ in range(n_layers)
        )
        if not untie_biases:
            tie_position_biases([layer.self_attn for layer in self.layers])
        self.reduction_position = reduction_position if reduction_factor > 1 else None
        self.out_proj = nn.Identity() if self._feat_out == d_model else nn.Linear(d_model, self._feat_out)
        if reduction == "striding" and reduction_position == -1 and self._feat_out != d_model:
            raise ValueError(f"encoder.reduction='striding' at the end needs encoder.feat_out -1 or d_model={d_model}")

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "audio_signal": NeuralType(("B", "F", "T"), SpectrogramType()),
            "length": NeuralType(("B",), LengthsType()),
            "cache_last_channel": NeuralType(None, ChannelType(), optional=True),
            "cache_last_time": NeuralType(None, ChannelType(), optional=True),
            "cache_last_channel_len": NeuralType(("B",), LengthsType(), optional=True),
            "bypass_pre_encode": NeuralType((), BoolType(), optional=True),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {
            "outputs": NeuralType(("B", "D", "S"), AcousticEncodedRepresentation()),
            "encoded_lengths": NeuralType(("B",), LengthsType()),
        }

    @typecheck()
    def forward(
        self,
        audio_signal: Tensor,
        length: Tensor,
        cache_last_channel: None = None,
        cache_last_time: None = None,
        cache_last_channel_len: None = None,
        bypass_pre_encode: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """audio_signal: (B, F, T), or with bypass_pre_encode subsampled states (B, S, D); length: (B,) along T or S.

        Returns states (B, D, S) and their lengths (B,). The caches of NeMo's streaming inference must be None.
        """
        refuse_caches(cache_last_channel, cache_last_time, cache_last_channel_len)
        outputs = self.layer_outputs(audio_signal, length, bypass_pre_encode)
        x, lengths = deque(outputs, maxlen=1).pop()  # runs all blocks, keeps the last one's output
        return self.finish(x, lengths)

    def layer_outputs(
        self, audio_signal: Tensor, length: Tensor, bypass_pre_encode: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Run the blocks one by one, giving after each its states (B, S, D) and their lengths (B,)."""
        context = self.draw_context()
        x, lengths = self.embed(audio_signal, length, bypass_pre_encode)
        x, positions = self.pos_enc(x)
        padding, mask = self.masks(x, lengths, context)
        for index, layer in enumerate(self.layers):
            before = x
            x = layer(x, positions, mask, padding)
            x = skip_at_random(before, x, self.layer_drop_probs[index] if self.training else 0.0)
            if index == self.reduction_position:
                x, lengths = self.reduction_subsampling(x, lengths)
                _, positions = self.pos_enc(x)  # x was scaled at the entrance
                padding, mask = self.masks(x, lengths, context)
            yield x, lengths

    def embed(self, audio_signal: Tensor, length: Tensor, bypass_pre_encode: bool) -> tuple[Tensor, Tensor]:
        """Subsampled states (B, S, D) and their lengths, computed from frames or given."""
        lengths = length.to(torch.int64)
        axis, size, name = (2, self.d_model, "d_model") if bypass_pre_encode else (1, self._feat_in, "feat_in")
        if audio_signal.size(axis) != size:
            raise ValueError(
                f"audio_signal of shape {tuple(audio_signal.shape)} must have encoder.{name}={size} on axis {axis} "
                f"with bypass_pre_encode={bypass_pre_encode}"
            )
        if bypass_pre_encode:
            return audio_signal, lengths
        return self.pre_encode(x=audio_signal.transpose(1, 2), lengths=lengths)

    def draw_context(self) -> list[int]:
        """The attention context of this batch: in training one of the list, else the default."""
        if self.training and len(self.att_context_size_all) > 1:
            return random.choices(self.att_context_size_all, weights=self.att_context_probs)[0]
        return self.att_context_size

    def masks(self, x: Tensor, lengths: Tensor, context: Sequence[int]) -> tuple[Tensor, object]:
        """For x (B, S, D): padding (B, S), and the mask of the attention layers. Made once, for all blocks."""
        padding = is_padding(lengths, x.size(1))
        return padding, self.attention.mask(padding, context, self.att_context_style)

    def finish(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """States of the last block (B, S, D) to the encoder's output (B, D, S)."""
        x = self.out_proj(x)
        if self.reduction_position == -1:
            x, lengths = self.reduction_subsampling(x, lengths)
        return x.transpose(1, 2), lengths

    def set_default_att_context_size(self, att_context_size: Sequence[int] | None) -> None:
        """Set the context used in evaluation; None leaves it.

        Local attention has its window in its layers: `change_attention_model` changes it.
        """
        if self.attention_options.self_attention_model == LOCAL:
            raise ValueError("the window of local attention is set by change_attention_model(att_context_size=...)")
        if att_context_size is not None:
            (self.att_context_size,) = parse_contexts([att_context_size], self.att_context_style)

    def change_attention_model(
        self, self_attention_model: str | None = None, att_context_size: Sequence[int] | None = None
    ) -> None:
        """Replace positions and attention layers, keeping their weights where the new ones have them.

        None: keep the model, or the context. After it training draws no contexts any more.
        Unlike NeMo 3.0.0 it keeps `use_bias`, global tokens and `dropout_pre_encoder`; tied biases come untied.
        """
        name = self_attention_model or self.attention_options.self_attention_model
        contexts = parse_contexts(att_context_size or self.att_context_size, self.att_context_style)
        options = replace(
            self.attention_options, self_attention_model=name, att_context_sizes=contexts, untie_biases=True
        )
        self.attention, self.attention_options = attention_model(name), options
        self.att_context_size_all, self.att_context_size, self.att_context_probs = contexts, contexts[0], [1.0]
        self.pos_enc = self.attention.positions(options).train(self.training)
        for layer in self.layers:
            old = layer.self_attn
            layer.self_attn = self.attention.layer(options).to(old.linear_q.weight).train(self.training)
            layer.self_attn.load_state_dict(old.state_dict(), strict=False)

    def change_subsampling_conv_chunking_factor(self, subsampling_conv_chunking_factor: int) -> None:
        """In how many pieces convolutions take a batch: -1 one, 1 as many as needed, or a power of 2.

        Stacking has no convolutions, and nothing to change.
        """
        for layer in self.pre_encode.modules():
            if isinstance(layer, ConvSubsampling):
                layer.change_subsampling_conv_chunking_factor(subsampling_conv_chunking_factor)


def refuse_streaming(
    att_context_style: str, att_chunk_context_size: Sequence | None, conv_context_style: str, conv_dual_mode: bool
) -> None:
    """Raise ValueError for options of NeMo's unified and streaming training, which isn't implemented."""
    for name, value, neutral in (
        ("att_chunk_context_size", att_chunk_context_size, None),
        ("conv_context_style", conv_context_style, "regular"),
        ("conv_dual_mode", conv_dual_mode, False),
    ):
        if value != neutral:
            raise ValueError(f"encoder.{name}={value!r} is not implemented; leave it at {neutral!r}")
    if att_context_style == "chunked_limited_with_rc":
        raise ValueError(
            "encoder.att_context_style='chunked_limited_with_rc' is not implemented; use 'chunked_limited'"
        )


def tell_what_has_no_effect(pos_emb_max_len: int, sync_max_audio_length: bool) -> None:
    """Log the options that size NeMo's table of positions, where they aren't at NeMo's default."""
    for name, value, default in (
        ("pos_emb_max_len", pos_emb_max_len, 5000),
        ("sync_max_audio_length", sync_max_audio_length, True),
    ):
        if value != default:
            info_once(f"encoder.{name}={value} has no effect: positions are computed for each batch")


def refuse_caches(cache_last_channel: None, cache_last_time: None, cache_last_channel_len: None) -> None:
    """Raise ValueError for the caches of streaming inference."""
    caches = (cache_last_channel, cache_last_time, cache_last_channel_len)
    for name, cache in zip(("cache_last_channel", "cache_last_time", "cache_last_channel_len"), caches, strict=True):
        if cache is not None:
            raise ValueError(f"encoder input {name} must be None: cache-aware streaming inference is not implemented")


class ConformerMultiLayerFeatureExtractor(NeuralModule):
    """States of several blocks of a `ConformerEncoder`, each through its output projection.

    encoder: kept as it is, and trained through. layer_idx_list: blocks, negative from the end; empty or None: all.
    aggregator: module (list of (B, D, S), list of lengths) -> (features, lengths); None: the lists themselves.
    detach, convert_to_cpu: for the states of blocks, not for the final output.
    include_final_output: put the encoder's own output last in the list. Without it, blocks behind the last one
        that is listed don't run, and are frozen: nothing depends on them.
    """

    def __init__(
        self,
        encoder: ConformerEncoder,
        layer_idx_list: Sequence[int] | None = None,
        aggregator: nn.Module | None = None,
        detach: bool = False,
        convert_to_cpu: bool = False,
        include_final_output: bool = True,
    ):
        super().__init__()
        self.encoder, self.num_layers = encoder, len(encoder.layers)
        for index in layer_idx_list or ():
            if not -self.num_layers <= index < self.num_layers:
                raise ValueError(f"layer_idx_list: {index} is no block of an encoder with {self.num_layers} blocks")
        self.layer_idx_list = sorted(index % self.num_layers for index in layer_idx_list or range(self.num_layers))
        self.aggregator = aggregator
        self.detach, self.convert_to_cpu = detach, convert_to_cpu
        self.include_final_output = include_final_output
        if not include_final_output:
            encoder.layers[self.layer_idx_list[-1] + 1 :].requires_grad_(False)

    def forward(
        self,
        audio_signal: Tensor,
        length: Tensor,
        cache_last_channel: None = None,
        cache_last_time: None = None,
        cache_last_channel_len: None = None,
    ) -> tuple:
        """audio_signal: (B, F, T). Returns two lists, of states (B, D, S) and of lengths (B,), or the aggregate."""
        refuse_caches(cache_last_channel, cache_last_time, cache_last_channel_len)
        states, state_lengths = [], []
        for index, (x, lengths) in enumerate(self.encoder.layer_outputs(audio_signal, length)):
            for _ in range(self.layer_idx_list.count(index)):
                states.append(self.capture(self.encoder.out_proj(x).transpose(1, 2)))
                state_lengths.append(self.capture(lengths))
            if not self.include_final_output and index == self.layer_idx_list[-1]:
                break
        if self.include_final_output:
            x, lengths = self.encoder.finish(x, lengths)
            states.append(x)
            state_lengths.append(lengths)
        return (states, state_lengths) if self.aggregator is None else self.aggregator(states, state_lengths)

    def capture(self, x: Tensor) -> Tensor:
        x = x.cpu() if self.convert_to_cpu else x
        return x.detach() if self.detach else x
