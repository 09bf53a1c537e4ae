"""Promises that hold for whole models, waveform in, log-probabilities and codes out, whatever the weights."""

import pytest
import torch

from parts.submodules.attention_models import ATTENTION
from parts.submodules.convolution import NORM
from parts.submodules.subsampling import SUBSAMPLING
from tools.parity.cases import DENOISE, OURS, PLAIN, SEED, model_case, seed_everything, shift_weights
from tools.parity.invariants import FRAME_SAMPLES, INVARIANTS, evaluate, steps_changed_by_late_samples

SMALL = {"preprocessor.features": 20, "masking.mask_prob": 0.02}
STATISTICS_OF_PADDING = ("instance_norm", "group_norm4")  # as in NeMo: the amount of padding counts
CONTENT = ("padding content", "padding of the features")
HEARS_ALL = {"preprocessor.normalize": None, "masking.mask_prob": 0.0}
MODELS = {
    "pre_conv": {},
    "post_conv": {"mask_position": "post_conv"},
    "two_books": {"num_books": 2},
    **{f"subsampling_{name}": {"encoder.subsampling": name} for name in SUBSAMPLING},
    **{
        f"causal_{name}": {"encoder.subsampling": name, "encoder.causal_downsampling": True}
        for name in ("dw_striding", "striding")
    },
    **{
        f"attention_{name}": {"encoder.self_attention_model": name, "encoder.att_context_size": [4, 2]}
        for name in ATTENTION
    },
    "chunked": {"encoder.att_context_style": "chunked_limited", "encoder.att_context_size": [4, 1]},
    "fused": {"encoder.use_pytorch_sdpa": True},
    **{f"norm_{name}": {"encoder.conv_norm_type": name} for name in (*NORM, "group_norm4")},
    **{f"normalize_{name}": {"preprocessor.normalize": name} for name in ("all_features", None)},
    "exact_pad": {"preprocessor.exact_pad": True},
    "min_masks": {"masking.min_masks": 2, "masking.allow_overlap": False},
}


def build(class_name=DENOISE, **changes):
    seed_everything(SEED)
    model = model_case(class_name, **(SMALL | changes)).build(OURS)
    shift_weights(model, SEED)
    return model.eval()


PROMISED = [
    (what, name)
    for what in INVARIANTS
    for name in MODELS
    if name.removeprefix("norm_") not in STATISTICS_OF_PADDING or what in CONTENT
]


@pytest.mark.parametrize(("what", "name"), PROMISED)
def test_an_utterance_does_not_depend_on(what, name):
    assert INVARIANTS[what](build(**MODELS[name])) < 2e-5


@pytest.mark.parametrize("what", ["padding content", "padding amount", "the rest of the batch"])
def test_nor_does_the_plain_model(what):
    assert INVARIANTS[what](build(PLAIN)) < 2e-5


@pytest.mark.parametrize("name", STATISTICS_OF_PADDING)
def test_statistics_over_time_depend_on_the_amount_of_padding(name):
    assert 1e-4 < INVARIANTS["padding amount"](build(**{"encoder.conv_norm_type": name})) < float("inf")


@pytest.mark.parametrize("num_frames", [400, 401, 402, 404])
@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, lambda frames: -(-frames // 8)),
        ({"encoder.subsampling": "vggnet"}, lambda frames: -(-frames // 8)),
        ({"encoder.subsampling": "stacking"}, lambda frames: frames // 8),
        ({"encoder.causal_downsampling": True}, lambda frames: halved(halved(halved(frames)))),
        ({"encoder.subsampling_factor": 4}, lambda frames: -(-frames // 4)),
        ({"mask_position": "post_conv"}, lambda frames: -(-frames // 8)),
    ],
    ids=["dw_striding", "vggnet", "stacking", "causal", "factor_4", "post_conv"],
)
def test_reported_lengths_are_the_steps_of_the_real_frames(changes, steps, num_frames):
    lengths = torch.tensor([404 * FRAME_SAMPLES, num_frames * FRAME_SAMPLES])
    audio = 0.1 * torch.randn(2, int(lengths.max()), generator=torch.Generator().manual_seed(0))
    outputs = evaluate(build(**changes), audio, audio, lengths, torch.tensor([0, 1]))
    assert outputs.lengths.tolist() == [steps(404), steps(num_frames)]


def halved(frames: int) -> int:
    """A causal convolution of kernel 3 and stride 2, with 2 zeros in front and 1 behind."""
    return (frames + 3 - 3) // 2 + 1


def test_a_causal_model_hears_nothing_later_than_its_chunk():
    changes = {
        **HEARS_ALL,
        "encoder.causal_downsampling": True,
        "encoder.conv_context_size": "causal",
        "encoder.att_context_style": "chunked_limited",
        "encoder.att_context_size": [4, 1],
    }
    changed = steps_changed_by_late_samples(build(**changes), frame=72).nonzero().flatten()
    assert changed[0] == 8  # frame 72 is in step 9, in the chunk of steps 8 and 9


@pytest.mark.parametrize("attention", ATTENTION)
def test_a_limited_model_hears_no_further_ahead_than_its_context(attention):
    changes = {
        **HEARS_ALL,
        "encoder.n_layers": 1,
        "encoder.conv_kernel_size": 3,
        "encoder.self_attention_model": attention,
        "encoder.att_context_size": [3, 2],
    }
    changed = steps_changed_by_late_samples(build(**changes), frame=80).nonzero().flatten()
    assert changed[0] == 10 - 2 - 1  # frame 80 is in step 10; two steps of attention, one of the convolution
