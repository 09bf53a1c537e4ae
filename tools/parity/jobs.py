"""What is compared when nobody says: the cases of the kept records, and with a NeMo that runs many more."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tools.parity.cases import CASES, NEMO, PLAIN, SEED, make_audio, make_masks
from tools.parity.own_config import DEFAULT
from tools.parity.own_job import own_job
from tools.parity.records import Job

ENCODER_ASPECTS = ("configuration", "parameters", "initial_weights", "computation")
MODEL_ASPECTS = ("configuration", "parameters", "initial_weights", "masks", "computation", "files")
OF_NO_MODEL = ("shipped_config", "data")  # the same for every model, so they are compared once, with the first
FIRST_MODEL = "model_pre_conv_1_book"
WITH_MASKS = ("default", "plain", "post_conv")  # of the live cases, which mask alike otherwise


def kept_job(name: str) -> Job:
    """The job of a case. An encoder's features, which need NeMo, are made on its side."""
    case = CASES[name]
    if case.is_model:
        aspects = OF_NO_MODEL + MODEL_ASPECTS if name == FIRST_MODEL else MODEL_ASPECTS
        return Job(name, case, aspects, make_audio() | {"masks": make_masks()}, brief_trace=True)
    return Job(name, case, ENCODER_ASPECTS, make_audio(SEED + 1), brief_trace=True)


# The default config with less width and depth, and a schedule whose first steps are long enough to be seen.
REDUCED = {
    "encoder.d_model": 64, "encoder.n_heads": 4, "encoder.n_layers": 3, "encoder.subsampling_conv_channels": 16,
    "num_classes": 256, "optim.lr": 0.1, "optim.sched.warmup_steps": 3,
}  # fmt: skip
LOCAL = {"encoder.self_attention_model": "rel_pos_local_attn", "encoder.att_context_size": [6, 4]}
GLOBAL_TOKEN = LOCAL | {"encoder.att_context_size": [4, 4], "+encoder.global_tokens": 1}
CHUNKED = {"encoder.att_context_style": "chunked_limited", "encoder.att_context_size": [8, 3]}
POST_CONV = {"mask_position": "post_conv"}
PLAIN_MODEL = {"+target": f"{NEMO}models.ssl_models.{PLAIN}"}
LIVE: dict[str, dict] = {  # what each changes in REDUCED: keys of `model`
    "default": {},
    "plain": PLAIN_MODEL,
    **{f"books_{books}": {"num_books": books} for books in (2, 4, 8)},
    "squeezed": {"squeeze_single": True},
    "post_conv": POST_CONV,
    "post_conv_books_2": POST_CONV | {"num_books": 2},
    "post_conv_plain": POST_CONV | PLAIN_MODEL,
    "post_conv_plain_books_2": POST_CONV | PLAIN_MODEL | {"num_books": 2},
    "post_conv_striding4": POST_CONV | {"encoder.subsampling": "striding", "encoder.subsampling_factor": 4},
    **{
        f"{kind}{factor}": {"encoder.subsampling": kind, "encoder.subsampling_factor": factor}
        for kind in ("dw_striding", "striding", "stacking", "stacking_norm")
        for factor in (2, 4, 8)
    },
    "vggnet4": {"encoder.subsampling": "vggnet", "encoder.subsampling_factor": 4},
    **{
        # causal layers make a step more of 128 frames, which no frame's code is left for, unless codes are of steps
        f"{kind}{factor}_causal_post_conv": POST_CONV | {
            "encoder.subsampling": kind, "encoder.subsampling_factor": factor, "encoder.causal_downsampling": True,
            "encoder.conv_context_size": "causal", "encoder.att_context_size": [6, 0],
        }
        for kind in ("dw_striding", "striding")
        for factor in (2, 4, 8)
    },
    "no_subsampling": {"encoder.subsampling_factor": 1},
    "local": LOCAL,
    "local_global_token": GLOBAL_TOKEN,
    "local_global_token_separate": GLOBAL_TOKEN | {"+encoder.global_attn_separate": True},
    "local_post_conv": LOCAL | POST_CONV,
    "limited": {"encoder.att_context_size": [5, 2]},
    "chunked": CHUNKED,
    "chunked_abs_pos": CHUNKED | {"encoder.self_attention_model": "abs_pos"},
    "chunked_post_conv_books_2": CHUNKED | POST_CONV | {"num_books": 2},
    "abs_pos": {"encoder.self_attention_model": "abs_pos"},
    "contexts": {"encoder.att_context_size": [[-1, -1], [6, 3]], "+encoder.att_context_probs": [0.4, 0.6]},
    "without_biases": {"encoder.use_bias": False, "encoder.untie_biases": False, "encoder.xscaling": False},
    "layer_norm": {"encoder.conv_norm_type": "layer_norm"},
    "mask_trained": {"masking.freeze": False},
    # several tokens answer scrambled in NeMo, and one has no spacing
    "global_tokens_spaced": GLOBAL_TOKEN | {"+encoder.global_tokens_spacing": 3},
    "linear_depth": {"encoder.stochastic_depth_drop_prob": 0.3},
    "telephone": {"sample_rate": 8000, "+preprocessor.highfreq": 3800},
}  # fmt: skip


def live_job(name: str) -> Job:
    overrides = [as_override(key, value) for key, value in (REDUCED | LIVE[name]).items()]
    aspects = [aspect for aspect in MODEL_ASPECTS if aspect != "masks" or name in WITH_MASKS]
    return replace(own_job(DEFAULT, overrides, aspects=aspects, name=f"live_{name}"), notes=())


def as_override(key: str, value: object) -> str:
    """As Hydra reads it; a key of `model` that the yaml doesn't have begins with a plus."""
    written = str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
    return f"{'+' * key.startswith('+')}model.{key.lstrip('+')}={written}"


LIVE_CASES: dict[str, Callable[[], Job]] = {f"live_{name}": partial(live_job, name) for name in LIVE}
