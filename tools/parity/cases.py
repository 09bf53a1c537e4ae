"""What the real NeMo and this project are compared on: small models, and synthetic speech to put into them.

Class names, constructor arguments and config keys are the same in both, so a case is built by either from one
description: `Case.build("nemo.collections.asr.")` or `Case.build("")`. Nothing here needs more than torch, numpy and
omegaconf, so that it runs in NeMo's own environment.
"""

import copy
import importlib
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from tools.synthetic_noise import make_noise
from tools.synthetic_speech import make_talker, say_something

NEMO, OURS = "nemo.collections.asr.", ""  # packages that hold models.ssl_models and modules.conformer_encoder
SEED = 2408
SAMPLE_RATE = 16000
STEPS = 5  # of the optimizer
LEVELS = (  # in the order of the computation
    "length", "feature", "code", "token", "subsampled", "layer", "encoded", "log_prob", "loss",  # in evaluation
    "training_length", "training_subsampled", "training_layer", "training_encoded", "training_loss",
    "input_gradient", "gradient", "batch_norm", "learning_rate", "step_loss", "parameter",
)  # fmt: skip
Levels = dict[str, Tensor]
SCORES = ("linear_q.weight", "linear_k.weight", "linear_pos.weight")  # of attention
SHARPER = 3.0  # times

ENCODER = {
    "feat_in": 16, "feat_out": -1, "n_layers": 1, "d_model": 8, "n_heads": 2, "ff_expansion_factor": 2,
    "subsampling": "dw_striding", "subsampling_factor": 8, "subsampling_conv_channels": 8, "conv_kernel_size": 5,
    "dropout": 0.0, "dropout_pre_encoder": 0.0, "dropout_emb": 0.0, "dropout_att": 0.0,
}  # fmt: skip

ENCODERS = {  # what each changes in ENCODER; the shared golden records have other values of these options
    "default": {},
    "contexts_drawn_in_training": {
        "att_context_size": [[-1, -1], [4, 2], [2, 0]], "att_context_probs": [0.1, 0.3, 0.6],
    },
    "chunked_layer_norm": {
        "att_context_size": [4, 1], "att_context_style": "chunked_limited", "conv_norm_type": "layer_norm",
    },
    "abs_pos_limited": {"self_attention_model": "abs_pos", "att_context_size": [3, 1], "subsampling_factor": 4},
    "local_uneven_window": {"self_attention_model": "rel_pos_local_attn", "att_context_size": [4, 2]},
    "local_global_token": {
        "self_attention_model": "rel_pos_local_attn", "att_context_size": [3, 3], "global_tokens": 1,
        "subsampling_factor": 4,
    },
    "local_global_token_separate": {
        "self_attention_model": "rel_pos_local_attn", "att_context_size": [3, 3], "global_tokens": 1,
        "global_attn_separate": True, "subsampling_factor": 4,
    },
    "causal_striding": {
        "subsampling": "striding", "subsampling_factor": 4, "causal_downsampling": True, "conv_context_size": "causal",
        "att_context_size": [6, 0],
    },
    "dw_striding2": {"subsampling_factor": 2, "d_model": 4},
    "striding8_group_norm": {"subsampling": "striding", "conv_norm_type": "group_norm2"},
    "reduction_striding": {
        "n_layers": 2, "d_model": 4, "reduction": "striding", "reduction_position": 0, "reduction_factor": 2,
        "subsampling_factor": 2,
    },
    "reduction_at_the_end": {
        "reduction": "pooling", "reduction_position": -1, "reduction_factor": 2, "subsampling_factor": 4,
        "feat_out": 12,
    },
    "stochastic_depth": {
        "n_layers": 4, "stochastic_depth_drop_prob": 0.6, "stochastic_depth_mode": "uniform", "feat_out": 10,
    },
    "no_bias_tied_no_xscaling": {
        "n_layers": 2, "use_bias": False, "untie_biases": False, "xscaling": False, "stochastic_depth_drop_prob": 0.4,
    },
    "stacking4": {"subsampling": "stacking", "subsampling_factor": 4},
    "stacking_norm8": {"subsampling": "stacking_norm"},
    "no_subsampling": {"subsampling_factor": 1, "d_model": 4},
    "causal_dw_striding": {
        "causal_downsampling": True, "conv_context_size": "causal", "att_context_size": [6, 0],
    },
    "fused_attention_instance_norm": {"use_pytorch_sdpa": True, "conv_norm_type": "instance_norm"},
}  # fmt: skip

DENOISE, PLAIN = "EncDecDenoiseMaskedTokenPredModel", "EncDecMaskedTokenPredModel"
SGD_WITH_COSINE = {
    "name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.001,
    "sched": {"name": "CosineAnnealing", "warmup_steps": 2, "min_lr": 1e-6, "max_steps": 10},
}  # fmt: skip
MODELS = {  # class, what changes in `model_config`; post_conv of the denoising model raises in NeMo 3.0.0
    "pre_conv_1_book": (DENOISE, {}),
    "pre_conv_2_books": (DENOISE, {"num_books": 2, "loss.mask_threshold": 0.75, "preprocessor.features": 20,
                                  "masking.freeze": False}),
    "pre_conv_squeezed": (PLAIN, {"squeeze_single": True, "encoder.subsampling": "striding",
                                  "encoder.subsampling_factor": 4, "preprocessor.features": 20,
                                  "optim": SGD_WITH_COSINE}),
    "post_conv_1_book": (PLAIN, {"mask_position": "post_conv", "quantizer.combine_time_steps": 1,
                                 "preprocessor.features": 20}),
}  # fmt: skip
ENCODER_CLASS = "modules.conformer_encoder.ConformerEncoder"
CLASS_PATHS = (*(f"models.ssl_models.{name}" for name in (DENOISE, PLAIN)), ENCODER_CLASS)  # that a job may name


@dataclass(frozen=True)
class Case:
    """A class and its configuration."""

    class_path: str  # without the package
    config: dict

    @property
    def is_model(self) -> bool:
        return self.class_path.startswith("models.")

    def build(self, package: str) -> nn.Module:
        """The model or encoder, with the class of `package`; its weights follow from torch's seed."""
        cls = self.class_of(package)
        if self.is_model:
            return cls(cfg=OmegaConf.create(copy.deepcopy(self.config)), trainer=None)
        return cls(**copy.deepcopy(self.config))

    def class_of(self, package: str) -> type[nn.Module]:
        module, name = self.class_path.rsplit(".", 1)
        return getattr(importlib.import_module(package + module), name)

    def build_optim(self) -> DictConfig:
        return OmegaConf.create(copy.deepcopy(self.config["optim"]))


def encoder_case(**changes) -> Case:
    return Case(ENCODER_CLASS, ENCODER | changes)


def model_case(class_name: str, **changes) -> Case:
    return Case(f"models.ssl_models.{class_name}", model_config(**changes))


def model_config(**changes) -> dict:
    """The `model` section of a small NEST, with NeMo's keys only; `changes` are dotted keys."""
    config = OmegaConf.create({
        "sample_rate": SAMPLE_RATE, "num_classes": 32, "num_books": 1, "code_dim": 8, "squeeze_single": False,
        "mask_position": "pre_conv", "train_ds": None, "validation_ds": None,
        "preprocessor": {
            "_target_": f"{NEMO}modules.AudioToMelSpectrogramPreprocessor", "sample_rate": "${sample_rate}",
            "normalize": "per_feature", "window_size": 0.025, "window_stride": 0.01, "window": "hann", "features": 80,
            "n_fft": 512, "log": True, "frame_splicing": 1, "dither": 0.0, "pad_to": 16, "pad_value": 0.0,
        },
        "spec_augment": {"_target_": f"{NEMO}modules.SpectrogramAugmentation", "freq_masks": 0, "time_masks": 0},
        "masking": {
            "_target_": f"{NEMO}modules.RandomBlockMasking", "block_size": 40, "mask_prob": 0.03,
            "feat_in": "${preprocessor.features}", "freeze": True, "allow_overlap": True,
        },
        "quantizer": {
            "_target_": f"{NEMO}modules.RandomProjectionVectorQuantizer", "feat_in": "${preprocessor.features}",
            "code_dim": "${code_dim}", "num_books": "${num_books}", "num_classes": "${num_classes}", "dist_fn": "l2",
            "freeze": True, "squeeze_single": "${squeeze_single}",
            "combine_time_steps": "${encoder.subsampling_factor}",
        },
        "encoder": {
            "_target_": f"{NEMO}modules.ConformerEncoder", **ENCODER, "feat_in": "${preprocessor.features}",
            "n_layers": 2, "d_model": 16,
        },
        "decoder": {
            "_target_": f"{NEMO}modules.MultiSoftmaxDecoder", "feat_in": "${encoder.d_model}",
            "num_classes": "${num_classes}", "num_decoders": "${num_books}", "squeeze_single": "${squeeze_single}",
            "use_bias": True,
        },
        "loss": {
            "_target_": f"{NEMO}losses.MultiMLMLoss", "combine_time_steps": "${encoder.subsampling_factor}",
            "mask_threshold": 0.8, "num_decoders": "${num_books}", "squeeze_single": "${squeeze_single}",
        },
        "optim": {
            "name": "adamw", "lr": 0.02, "betas": [0.9, 0.98], "weight_decay": 0.001,
            "sched": {"name": "NoamAnnealing", "d_model": "${encoder.d_model}", "warmup_steps": 3, "min_lr": 1e-6,
                      "max_steps": 100},
        },
    })  # fmt: skip
    for key, value in changes.items():
        OmegaConf.update(config, key, value, merge=False, force_add=True)
    return OmegaConf.to_container(config, resolve=True)


CASES: dict[str, Case] = {f"encoder_{name}": encoder_case(**changes) for name, changes in ENCODERS.items()}
CASES |= {f"model_{name}": model_case(cls, **changes) for name, (cls, changes) in MODELS.items()}


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def shift_weights(module: nn.Module, seed: int) -> None:
    """Move trained parameters and batch-norm statistics off their initial values, many of which are zeros and ones
    that would hide what they act on (biases of positions, shifts of norms); and codes off unit length, which would
    hide whether what they are compared with is normalised. And make attention peaked: nearly uniform, as it is at
    first, it would hide mistakes of its scores."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, value in sorted(module.state_dict(keep_vars=True).items()):
            if name.endswith(SCORES):
                value *= SHARPER
            if value.requires_grad:
                value += 0.1 * torch.from_numpy(rng.standard_normal(tuple(value.shape))).to(value.dtype)
            elif name.endswith("running_mean"):
                value += 0.2 * torch.from_numpy(rng.standard_normal(tuple(value.shape))).to(value.dtype)
            elif name.endswith("codebooks"):
                value *= torch.from_numpy(rng.uniform(0.7, 1.3, (*value.shape[:-1], 1))).to(value.dtype)
            elif name.endswith("running_var"):
                value *= torch.from_numpy(rng.uniform(0.5, 1.5, tuple(value.shape))).to(value.dtype)


def make_audio(
    seed: int = SEED, sample_rate: int = SAMPLE_RATE, seconds: Sequence[float] = (1.17, 0.85)
) -> dict[str, Tensor]:
    """Utterances of one talker each, clean and in noise, as 16-bit samples (B, N); lengths (B,).

    1.17 and 0.85 s: 117 and 85 frames of 10 ms, no multiple of 8, in a batch padded to 128.
    """
    lengths = [round(duration * sample_rate) for duration in seconds]
    clean = np.zeros((len(lengths), max(lengths)))
    noise = np.zeros_like(clean)
    for row, (kind, length) in enumerate(zip(itertools.cycle(("babble", "hum")), lengths)):
        rng = np.random.default_rng((seed, row))
        duration = length / sample_rate
        clean[row, :length] = 0.8 * say_something(make_talker("", rng), duration, sample_rate, rng)[0]
        noise[row, :length] = 0.3 * make_noise(kind, duration, sample_rate, rng)
    return {"clean": as_int16(clean), "noisy": as_int16(clean + noise), "lengths": torch.tensor(lengths)}


def as_int16(samples: np.ndarray) -> Tensor:
    """Samples from -1 to 1, as 16-bit integers; what is louder is clipped."""
    return torch.from_numpy(np.round(32767 * samples.clip(-1, 1)).astype(np.int16))


def make_masks(lengths: Sequence[int] = (117, 85), frames: int = 128, steps: int = STEPS, seed: int = SEED) -> Tensor:
    """(1 + steps, B, frames) uint8: what the model must guess, first for the gradients, then for each optimizer step.

    lengths: (B,) of real frames. Blocks start anywhere, so that steps at their edges are masked by 1 to 7 of 8 frames:
    thresholds matter.
    """
    rng = np.random.default_rng((seed, 99))
    masks = np.zeros((1 + steps, len(lengths), frames), dtype=np.uint8)
    for passage in masks:
        for row, length in zip(passage, lengths):
            for start in range(2, max(3, length - 35), 44):
                start += int(rng.integers(8))
                row[start : min(start + 28, length)] = 1
            row[max(0, length - 19) : max(0, length - 5)] = 1
    return torch.from_numpy(masks)
