"""NeMo and this project side by side in one process, with the same weights: what records are too few for.

Runs where NeMo 3.0.0 can be imported (`pytest -m nemo tests/parity/test_against_nemo.py` in its environment).
"""

import importlib.util
import itertools
import logging

import pytest
import torch

from tools.parity.aspects.computation import levels_of
from tools.parity.cases import (
    CASES,
    DENOISE,
    NEMO,
    OURS,
    PLAIN,
    SEED,
    Case,
    Levels,
    encoder_case,
    make_audio,
    make_masks,
    model_case,
    seed_everything,
    shift_weights,
)
from tools.parity.comparison import first_difference
from tools.parity.levels import measure
from tools.parity.records import copy_weights, kept, start_weights

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif(importlib.util.find_spec("nemo") is None, reason="needs the real NeMo 3.0.0 to be installed"),
]

DROPOUT = {"dropout": 0.1, "dropout_pre_encoder": 0.2, "dropout_emb": 0.1, "dropout_att": 0.15}  # drawn from one seed
ENCODERS = {
    **{
        f"{subsampling}{factor}{'_causal' * causal}": {
            "subsampling": subsampling, "subsampling_factor": factor, "causal_downsampling": causal,
        }
        for subsampling, factor, causal in itertools.product(("dw_striding", "striding"), (2, 4, 8), (False, True))
    },
    **{
        f"{model}_{style}{context}": {
            "self_attention_model": model, "att_context_style": style, "att_context_size": context,
        }
        for model, (style, context) in itertools.product(
            ("rel_pos", "abs_pos"),
            (("regular", [-1, -1]), ("regular", [0, 0]), ("regular", [5, -1]), ("chunked_limited", [-1, 3]),
             ("chunked_limited", [6, 2]), ("chunked_limited", [0, 1])),
        )
    },
    **{
        f"local{context}_{tokens}_{separate}": {
            "self_attention_model": "rel_pos_local_attn", "att_context_size": context, "global_tokens": tokens,
            "global_attn_separate": separate, "subsampling_factor": 4,
        }
        for context, (tokens, separate) in itertools.product(  # NeMo 3.0.0 raises for a window of [1, 1]
            ([2, 2], [5, 2], [0, 3], [40, 40]), ((0, False), (1, False), (1, True))
        )
    },
    **{
        f"{norm}_{context}": {"conv_norm_type": norm, "conv_context_size": context}
        for norm, context in itertools.product(
            ("batch_norm", "layer_norm", "instance_norm", "group_norm4", "fused_batch_norm"), (None, "causal", [3, 1])
        )
    },
    **{
        f"bias_{bias}_untied_{untied}_xscaling_{xscaling}_fused_{fused}": {
            "use_bias": bias, "untie_biases": untied, "xscaling": xscaling, "use_pytorch_sdpa": fused, "n_layers": 2,
        }
        for bias, untied, xscaling, fused in itertools.product((False, True), repeat=4)
    },
    **{
        f"stochastic_depth_{mode}_{start}": {
            "n_layers": 4, "stochastic_depth_drop_prob": 0.5, "stochastic_depth_mode": mode,
            "stochastic_depth_start_layer": start,
        }
        for mode, start in itertools.product(("linear", "uniform"), (1, 3))
    },
    **{
        f"reduction_{kind}_at_{position}": {
            "n_layers": 2, "reduction": kind, "reduction_position": position, "reduction_factor": 2,
            "subsampling_factor": 4,
        }
        for kind, position in itertools.product(("pooling", "striding"), (0, 1, -1))
    },
    "dropout": DROPOUT,
    # here NeMo 3.0.0 takes dropout in the place of dropout_pre_encoder, and draws dropout_att for other shapes
    "dropout_local": DROPOUT | {
        "dropout_pre_encoder": 0.1, "dropout_att": 0.0, "self_attention_model": "rel_pos_local_attn",
        "att_context_size": [3, 3],
    },
    "feat_out": {"feat_out": 5},
    "channels_default": {"subsampling_conv_channels": -1},
}  # fmt: skip
MODELS = {
    "few_codes": (DENOISE, {"num_classes": 7, "code_dim": 3}),
    "three_books": (DENOISE, {"num_books": 3}),
    "squeezed": (DENOISE, {"squeeze_single": True}),
    "threshold_half": (DENOISE, {"loss.mask_threshold": 0.5}),
    "no_normalisation": (DENOISE, {"preprocessor.normalize": None}),
    "all_features": (DENOISE, {"preprocessor.normalize": "all_features"}),
    "exact_pad": (DENOISE, {"preprocessor.exact_pad": True}),
    "no_preemphasis": (DENOISE, {"preprocessor.preemph": None}),
    "narrow_mel": (DENOISE, {"preprocessor.lowfreq": 80, "preprocessor.highfreq": 7000}),
    "hamming_magnitudes": (DENOISE, {"preprocessor.window": "hamming", "preprocessor.mag_power": 1.0}),
    "steps_of_40_ms": (DENOISE, {"encoder.subsampling_factor": 4}),
    "trained_mask": (DENOISE, {"masking.freeze": False}),
    "fixed_mask": (DENOISE, {"masking.mask_value": 0.5}),
    "no_decoder_bias": (DENOISE, {"decoder.use_bias": False}),
    "plain": (PLAIN, {}),
    "plain_post_conv_squeezed": (
        PLAIN, {"mask_position": "post_conv", "quantizer.combine_time_steps": 1, "squeeze_single": True},
    ),
    "plain_post_conv_two_books": (
        PLAIN, {"mask_position": "post_conv", "quantizer.combine_time_steps": 1, "num_books": 2},
    ),
    "sgd_cosine": (DENOISE, {"optim": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "sched": {
        "name": "CosineAnnealing", "warmup_steps": 2, "min_lr": 1e-4, "max_steps": 10}}}),
    "adam_inverse_square_root": (DENOISE, {"optim": {"name": "adam", "lr": 2e-3, "betas": [0.9, 0.98], "sched": {
        "name": "InverseSquareRootAnnealing", "warmup_steps": 2, "max_steps": 10}}}),
}  # fmt: skip
GRID = {f"encoder_{name}": encoder_case(**changes) for name, changes in ENCODERS.items()}
GRID |= {
    f"model_{name}": model_case(cls, **({"preprocessor.features": 20} | changes))
    for name, (cls, changes) in MODELS.items()
}


@pytest.fixture(scope="module", autouse=True)
def quiet_nemo():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def inputs_of(case: Case) -> Levels:
    return make_audio() | {"masks": make_masks()} if case.is_model else kept("encoder_default").job.inputs


@pytest.mark.parametrize("name", GRID)
def test_every_level_equals_nemos(name):
    case = GRID[name]
    seed_everything(SEED)
    nemo = case.build(NEMO)
    shift_weights(nemo, SEED)
    ours = case.build(OURS)
    copy_weights(start_weights(nemo), ours)
    expected = measure(case, nemo, inputs_of(case))
    assert first_difference(measure(case, ours, inputs_of(case)), expected) is None


@pytest.mark.parametrize("name", CASES)
def test_the_records_are_what_nemo_computes(name):
    record = kept(name)
    nemo = record.job.case.build(NEMO)
    copy_weights(record.job.start, nemo)
    levels = measure(record.job.case, nemo, record.job.inputs)
    assert first_difference(levels, levels_of(record)) is None


@pytest.mark.parametrize("name", ["pre_conv_1_book", "post_conv_1_book"])
def test_a_mask_drawn_with_the_same_torch_seed_is_the_same(name):
    case = CASES[f"model_{name}"]
    drawn, lengths = [], torch.tensor([200, 77, 30])
    for package in (NEMO, OURS):
        masking = case.build(package).mask_processor
        torch.manual_seed(1)
        _, masks = masking(input_feats=torch.zeros(3, len(masking.mask_embedding), 200), input_lengths=lengths)
        drawn.append(masks)
    assert drawn[0].any()
    assert torch.equal(*drawn)
