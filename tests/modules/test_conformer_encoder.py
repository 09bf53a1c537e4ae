import inspect
import random

import pytest
import torch

from modules.conformer_encoder import ConformerEncoder
from parts.submodules.attention_models import ATTENTION
from parts.submodules.attention_options import LOCAL
from parts.submodules.convolution import NORM
from parts.submodules.reduction import REDUCTION
from parts.submodules.subsampling import SUBSAMPLING

FRAMES = [400, 401, 402, 404]
NO_DROPOUT = {"dropout": 0.0, "dropout_pre_encoder": 0.0, "dropout_emb": 0.0, "dropout_att": 0.0}
TWO_GLOBAL_TOKENS = {"self_attention_model": LOCAL, "att_context_size": [2, 2], "global_tokens": 2}
BASE = {
    "feat_in": 8, "n_layers": 2, "d_model": 16, "subsampling": "dw_striding", "subsampling_factor": 8,
    "subsampling_conv_channels": 4, "n_heads": 4, "conv_kernel_size": 5, **NO_DROPOUT,
}  # fmt: skip
ENCODERS = {
    **{f"subsampling {name}": {"subsampling": name} for name in SUBSAMPLING},
    "no subsampling": {"subsampling_factor": 1},
    "causal": {"causal_downsampling": True, "conv_context_size": "causal"},
    **{f"attention {name}": {"self_attention_model": name, "att_context_size": [4, 4]} for name in ATTENTION},
    "global tokens": {
        "self_attention_model": LOCAL, "att_context_size": [3, 2],
        "global_tokens": 2, "global_tokens_spacing": 7, "global_attn_separate": True,
    },
    "chunks": {"att_context_size": [6, 2], "att_context_style": "chunked_limited"},
    "sdpa": {"use_pytorch_sdpa": True},
    **{f"norm {name}": {"conv_norm_type": name} for name in NORM if name != "instance_norm"},
    **{f"reduction {name}": {"reduction": name, "reduction_position": 0, "reduction_factor": 2} for name in REDUCTION},
}  # fmt: skip
OVER_PADDING = {"norm group_norm4": "group_norm4", "norm instance_norm": "instance_norm"}


def build(**options):
    torch.manual_seed(0)
    encoder = ConformerEncoder(**{**BASE, **options})
    for name, value in encoder.state_dict().items():  # as after some training: no neutral values
        if "pos_bias" in name or ("batch_norm" in name and value.is_floating_point()):
            torch.nn.init.uniform_(value, 0.5, 1.5)
    return encoder.eval()


def mel(num_frames=404, batch=2, seed=1):
    return torch.randn(batch, 8, num_frames, generator=torch.Generator().manual_seed(seed))


def encode(encoder, x, lengths, seed=0, **inputs):
    torch.manual_seed(seed)
    random.seed(seed)
    with torch.no_grad():
        return encoder(audio_signal=x, length=torch.as_tensor(lengths), **inputs)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def changed_steps(encoder, x, changed):
    length = [x.size(2)]
    before, after = encode(encoder, x, length)[0], encode(encoder, changed, length)[0]
    return ((before - after).abs().amax(dim=1)[0] > 1e-6).nonzero().flatten().tolist()


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("num_frames", FRAMES)
def test_an_item_alone_equals_the_item_in_a_batch(name, num_frames):
    encoder, x = build(**ENCODERS[name]), mel()
    batched, steps = encode(encoder, x, [404, num_frames])
    alone, (steps_alone,) = encode(encoder, x[1:, :, :num_frames], [num_frames])
    assert steps[1] == steps_alone <= alone.size(2)
    same(batched[1, :, : steps[1]], alone[0, :, :steps_alone])


@pytest.mark.parametrize("name", [*ENCODERS, *OVER_PADDING])
def test_padding_content_changes_nothing(name):
    encoder, x = build(**ENCODERS.get(name, {"conv_norm_type": OVER_PADDING.get(name)})), mel()
    before, steps = encode(encoder, x, [302, 97])
    x[0, :, 302:], x[1, :, 97:] = 1e4, float("nan")
    after, _ = encode(encoder, x, [302, 97])
    for row, step in enumerate(steps):
        assert torch.equal(before[row, :, :step], after[row, :, :step])


@pytest.mark.parametrize("name", OVER_PADDING)
def test_norms_over_time_depend_on_the_amount_of_padding_as_in_nemo(name):
    encoder, x = build(conv_norm_type=OVER_PADDING[name]), mel(batch=1)
    padded, (steps,) = encode(encoder, x, [200])
    alone, _ = encode(encoder, x[:, :, :200], [200])
    assert not torch.allclose(padded[..., :steps], alone[..., :steps], atol=1e-3)


def test_a_causal_encoder_reads_nothing_after_its_chunk():
    encoder = build(
        causal_downsampling=True, conv_context_size="causal", conv_norm_type="layer_norm",
        att_context_size=[6, 2], att_context_style="chunked_limited",
    )  # fmt: skip
    x, changed = mel(batch=1), mel(batch=1)
    changed[:, :, 200:] *= -3.0  # from step 25 on, which is in the chunk of steps 24 to 26
    assert changed_steps(encoder, x, changed)[0] == 24


@pytest.mark.parametrize(
    "options",
    [{"att_context_size": [3, 2]}, {"self_attention_model": LOCAL, "att_context_size": [3, 2]}],
    ids=["limited", "local"],
)
def test_a_limited_encoder_reads_its_context_in_each_block_and_no_further(options):
    encoder, x, changed = build(**options), mel(800, batch=1), mel(800, batch=1)
    changed[:, :, 400] *= -9.0  # step 50; subsampling spreads it over 49 to 51
    reach_back, reach_ahead = 2 * (2 + 2) + 1, 2 * (3 + 2) + 1  # two blocks of attention (3, 2), convolution (2, 2)
    steps = changed_steps(encoder, x, changed)
    assert 50 - reach_back <= steps[0] < 50 - 2 and 50 + 3 < steps[-1] <= 50 + reach_ahead


@pytest.mark.parametrize("name", ["rel_pos", "abs_pos", LOCAL])
def test_positions_reach_beyond_pos_emb_max_len(name):
    options = {"self_attention_model": name, "att_context_size": [4, 4]}
    x = mel()
    same(encode(build(pos_emb_max_len=3, **options), x, [404, 100])[0], encode(build(**options), x, [404, 100])[0])


@pytest.mark.parametrize("name", ["rel_pos", "abs_pos"])
def test_fused_attention_gives_the_same_values_and_gradients(name):
    x, lengths, results = mel(), torch.tensor([404, 150]), []
    for fused in (False, True):
        encoder = build(self_attention_model=name, use_pytorch_sdpa=fused, att_context_size=[9, 4]).double().train()
        y, _ = encoder(audio_signal=x.double(), length=lengths)
        results.append((y, torch.autograd.grad(y.square().sum(), list(encoder.parameters()))))
    torch.testing.assert_close(results[0], results[1])


CHANGES = {  # option -> what it is set to; each must change the output of BASE with the same weights
    "n_layers": {"n_layers": 1},
    "feat_out": {"feat_out": 6},
    "causal_downsampling": {"causal_downsampling": True},
    "subsampling": {"subsampling": "striding"},
    "subsampling_factor": {"subsampling_factor": 4},
    "subsampling_conv_channels": {"subsampling_conv_channels": -1},
    "reduction": {"reduction": "pooling", "reduction_position": 0, "reduction_factor": 2},
    "reduction at the end": {"reduction": "striding", "reduction_position": -1, "reduction_factor": 2},
    "ff_expansion_factor": {"ff_expansion_factor": 2},
    "self_attention_model": {"self_attention_model": "abs_pos"},
    "n_heads": {"n_heads": 2},
    "att_context_size": {"att_context_size": [3, 3]},
    "xscaling": {"xscaling": False},
    "conv_kernel_size": {"conv_kernel_size": 3},
    "conv_norm_type": {"conv_norm_type": "layer_norm"},
    "conv_context_size": {"conv_context_size": "causal"},
    "use_bias": {"use_bias": False},
}
IN_TRAINING = {
    "dropout": {"dropout": 0.5},
    "dropout_pre_encoder": {"dropout_pre_encoder": 0.5},
    "dropout_emb": {"dropout_emb": 0.5},
    "dropout_att": {"dropout_att": 0.5},
    "stochastic_depth_drop_prob": {"stochastic_depth_drop_prob": 0.9},
    "att_context_size, a list": {"att_context_size": [[-1, -1], [1, 1]], "att_context_probs": [0.0, 1.0]},
}


@pytest.mark.parametrize("option", [*CHANGES, *IN_TRAINING])
def test_an_option_that_is_accepted_changes_the_output(option):
    base, encoder = build(), build(**(CHANGES | IN_TRAINING)[option])
    weights = encoder.state_dict()
    copied = {name: value for name, value in base.state_dict().items() if name in weights}
    encoder.load_state_dict({n: v for n, v in copied.items() if v.shape == weights[n].shape}, strict=False)
    x = mel()
    if option in IN_TRAINING:
        same(encode(base, x, [404, 90])[0], encode(encoder, x, [404, 90])[0])
        base.train(), encoder.train()
    before, after = encode(base, x, [404, 90])[0], encode(encoder, x, [404, 90])[0]
    assert before.shape != after.shape or not torch.allclose(before, after, atol=1e-4)


def outputs_of(options, others):
    """Outputs in training of two encoders with the same weights."""
    one, other = build(**options), build(**others)
    other.load_state_dict(one.state_dict(), strict=False)  # global_attn_separate has weights of its own
    return encode(one.train(), mel(), [404, 90], seed=2)[0], encode(other.train(), mel(), [404, 90], seed=2)[0]


@pytest.mark.parametrize(
    "options, others",
    [
        ({"att_context_size": [[-1, -1], [1, 1]], "att_context_probs": [1.0, 0.0]}, {"att_context_probs": [0.0, 1.0]}),
        ({"att_context_size": [6, 1]}, {"att_context_style": "chunked_limited"}),
        ({"stochastic_depth_drop_prob": 0.9, "n_layers": 4}, {"stochastic_depth_mode": "uniform"}),
        ({"stochastic_depth_drop_prob": 0.9, "n_layers": 4}, {"stochastic_depth_start_layer": 4}),
        ({"reduction": "pooling", "reduction_position": 0, "reduction_factor": 2}, {"reduction_position": 1}),
        ({"reduction": "pooling", "reduction_position": 0, "reduction_factor": 2}, {"reduction_factor": 4}),
        ({"self_attention_model": LOCAL, "att_context_size": [2, 2]}, {"att_context_size": [4, 4]}),
        ({"self_attention_model": LOCAL, "att_context_size": [2, 2]}, {"global_tokens": 1}),
        ({**TWO_GLOBAL_TOKENS, "global_tokens_spacing": 1}, {"global_tokens_spacing": 5}),
        (TWO_GLOBAL_TOKENS, {"global_attn_separate": True}),
    ],
)
def test_an_option_of_an_option_changes_the_output(options, others):
    one, other = outputs_of(options, {**options, **others})
    assert one.shape != other.shape or not torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("neutral", [{"pos_emb_max_len": 9}, {"sync_max_audio_length": False}])
def test_what_concerns_memory_only_changes_no_number_and_says_so(neutral, caplog):
    with caplog.at_level("INFO", logger="nest_ssl"):
        one, other = outputs_of({}, neutral)
    assert torch.equal(one, other)
    ((name, value),) = neutral.items()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [f"encoder.{name}={value} has no effect"]


def test_tied_biases_are_one_parameter_in_all_blocks_and_keep_their_names():
    tied, untied = build(untie_biases=False), build()
    assert tied.layers[0].self_attn.pos_bias_u is tied.layers[1].self_attn.pos_bias_u
    assert tied.state_dict().keys() == untied.state_dict().keys()
    assert sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters()) == 2 * 16


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n_heads": 3}, "encoder.n_heads=3 does not divide encoder.d_model=16; the nearest that does is 2"),
        ({"subsampling": "striding_conv1d"}, "encoder.subsampling='striding_conv1d'"),
        ({"subsampling_factor": 6}, "encoder.subsampling_factor=6"),
        ({"att_context_style": "chunked_limited_with_rc"}, "encoder.att_context_style='chunked_limited_with_rc'"),
        ({"att_chunk_context_size": [[70], [1], [0]]}, "encoder.att_chunk_context_size=[[70], [1], [0]]"),
        ({"conv_context_style": "dcc"}, "encoder.conv_context_style='dcc'"),
        ({"conv_dual_mode": True}, "encoder.conv_dual_mode=True"),
        ({"self_attention_model": "rel"}, "encoder.self_attention_model='rel'"),
        ({"conv_norm_type": "group_norm5"}, "encoder.conv_norm_type='group_norm5'"),
        ({"conv_kernel_size": 4}, "encoder.conv_kernel_size=4"),
        ({"conv_context_size": [1, 1]}, "encoder.conv_context_size=[1, 1]"),
        ({"stochastic_depth_drop_prob": 1.0}, "encoder.stochastic_depth_drop_prob=1.0"),
        ({"reduction_factor": 2}, "encoder.reduction_factor=2"),
        (
            {"reduction": "striding", "reduction_factor": 2, "reduction_position": -1, "feat_out": 6},
            "encoder.reduction='striding' at the end",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_by_name_in_one_line(options, message):
    with pytest.raises(ValueError) as error:
        build(**options)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize("cache", ["cache_last_channel", "cache_last_time", "cache_last_channel_len"])
def test_streaming_caches_are_refused_by_name(cache):
    tensors = {"cache_last_channel": torch.zeros(2, 1, 4, 16), "cache_last_time": torch.zeros(2, 1, 16, 4)}
    with pytest.raises(ValueError, match=f"{cache} must be None"):
        encode(build(), mel(), [404, 90], **{cache: tensors.get(cache, torch.zeros(1))})


@pytest.mark.parametrize("bypass, name", [(False, "feat_in=8"), (True, "d_model=16")])
def test_input_of_the_wrong_size_is_refused_with_the_right_one(bypass, name):
    with pytest.raises(ValueError, match=rf"encoder\.{name}"):
        encode(build(), torch.zeros(2, 7, 7), [7, 7], bypass_pre_encode=bypass)


def test_bypassing_the_subsampling_takes_up_where_it_ends():
    encoder, x, lengths = build(), mel(), torch.tensor([404, 300])
    with torch.no_grad():
        states, steps = encoder.pre_encode(x=x.transpose(1, 2), lengths=lengths)
    whole, bypassed = encode(encoder, x, lengths), encode(encoder, states, steps, bypass_pre_encode=True)
    same(whole[0], bypassed[0])
    assert torch.equal(whole[1], bypassed[1])


def test_training_draws_contexts_and_evaluation_takes_the_first():
    encoder, x = build(att_context_size=[[2, 2], [-1, -1]]), mel()
    same(encode(encoder, x, [404, 404])[0], encode(build(att_context_size=[2, 2]), x, [404, 404])[0])
    drawn = {round(encode(encoder.train(), x, [404, 404], seed=seed)[0].abs().mean().item(), 6) for seed in range(8)}
    assert len(drawn) == 2


def test_the_default_context_can_be_set():
    encoder, x = build(att_context_size=[[2, 2], [-1, -1]]), mel()
    encoder.set_default_att_context_size([-1, -1])
    same(encode(encoder, x, [404, 404])[0], encode(build(), x, [404, 404])[0])
    encoder.set_default_att_context_size(None)
    assert encoder.att_context_size == [-1, -1]
    with pytest.raises(ValueError, match="change_attention_model"):
        build(self_attention_model=LOCAL, att_context_size=[2, 2]).set_default_att_context_size([1, 1])


def test_attention_changed_to_a_wide_window_gives_the_same_states():
    encoder, x = build(), mel()
    full = encode(encoder, x, [404, 150])[0]
    encoder.change_attention_model(LOCAL, [60, 60])
    same(encode(encoder, x, [404, 150])[0], full)
    encoder.change_attention_model(att_context_size=[1, 1])
    assert not torch.allclose(encode(encoder, x, [404, 150])[0], full, atol=1e-3)
    encoder.change_attention_model("rel_pos", [-1, -1])
    assert torch.equal(encode(encoder, x, [404, 150])[0], full)


def test_the_chunking_factor_can_be_changed():
    encoder = build()
    encoder.change_subsampling_conv_chunking_factor(2)
    assert encoder.pre_encode.pieces(torch.zeros(4, 1, 8, 8)) == 2


def test_every_weight_gets_a_gradient_though_blocks_are_skipped():
    encoder = build(stochastic_depth_drop_prob=0.9, stochastic_depth_mode="uniform", n_layers=4).train()
    encoder(audio_signal=mel(), length=torch.tensor([404, 100]))[0].sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_masks_are_made_once_per_batch():
    encoder, calls = build(), []
    masks = encoder.masks
    encoder.masks = lambda *inputs: calls.append(inputs) or masks(*inputs)
    encode(encoder, mel(), [404, 100])
    assert len(calls) == 1


def test_mixed_precision_and_bfloat16_run_and_stay_near():
    x, lengths = mel(), torch.tensor([404, 100])
    exact = encode(build(), x, lengths)[0]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encode(build(), x, lengths)[0]
    low, _ = encode(build().to(torch.bfloat16), x.to(torch.bfloat16), lengths)
    assert low.dtype == torch.bfloat16
    for approximate in (mixed, low):
        assert (approximate.float() - exact).norm() < 0.05 * exact.norm()


def test_fresh_weights_are_spread_as_torch_spreads_them():
    encoder = ConformerEncoder(80, 1, 64, subsampling="dw_striding", subsampling_factor=8, subsampling_conv_channels=32)
    for name, weight in encoder.named_parameters():
        if name.endswith("weight") and weight.dim() > 1:
            bound = weight[0].numel() ** -0.5  # uniform within 1 / sqrt(inputs of an output)
            assert weight.abs().max() <= bound, name
            assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.15), name
    assert not encoder.layers[0].self_attn.pos_bias_u.any() and not encoder.layers[0].self_attn.pos_bias_v.any()


def test_the_default_config_has_the_parameters_of_nest_large():
    with torch.device("meta"):
        encoder = ConformerEncoder(
            80, 17, 512, subsampling="dw_striding", subsampling_factor=8, subsampling_conv_channels=256,
            n_heads=8, conv_kernel_size=9,
        )  # fmt: skip
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 108_762_112


def test_arguments_come_in_the_order_of_nemo():
    assert list(inspect.signature(ConformerEncoder).parameters)[:-1] == [
        "feat_in", "n_layers", "d_model", "feat_out", "causal_downsampling", "subsampling", "subsampling_factor",
        "subsampling_conv_chunking_factor", "subsampling_conv_channels", "reduction", "reduction_position",
        "reduction_factor", "ff_expansion_factor", "self_attention_model", "n_heads", "att_context_size",
        "att_context_probs", "att_chunk_context_size", "att_context_style", "xscaling", "untie_biases",
        "pos_emb_max_len", "conv_kernel_size", "conv_norm_type", "conv_context_size", "conv_context_style", "use_bias",
        "dropout", "dropout_pre_encoder", "dropout_emb", "dropout_att", "stochastic_depth_drop_prob",
        "stochastic_depth_mode", "stochastic_depth_start_layer", "global_tokens", "global_tokens_spacing",
        "global_attn_separate", "use_pytorch_sdpa", "use_pytorch_sdpa_backends", "sync_max_audio_length",
    ]  # fmt: skip


def test_sizes_that_other_modules_read_have_their_nemo_names():
    encoder = build(feat_out=6)
    assert (encoder._feat_in, encoder._feat_out, encoder.d_model, encoder.n_layers) == (8, 6, 16, 2)
    assert encoder.subsampling_factor == 8 and build()._feat_out == 16
