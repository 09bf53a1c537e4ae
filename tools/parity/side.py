"""One side of a comparison, NeMo or this project: a job, and models built for it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from tools.parity.cases import DENOISE, NEMO, OURS, SEED, Case, seed_everything, shift_weights
from tools.parity.records import Job, copy_weights, start_weights

PACKAGES = {"nemo": NEMO, "ours": OURS}
DATA = ("train_ds", "validation_ds", "test_ds")  # sections of a model's config; NeMo's constructor opens their files
MISSING_TRANSPOSE = (
    "NeMo 3.0.0 raises for mask_position=post_conv of the denoising model, as 2.6.0 does: a transpose is missing in "
    "front of its subsampling; compared with that transpose added"
)


@dataclass(frozen=True)
class Side:
    """name: a key of PACKAGES.  folder: for files of this job; both sides see it, on one machine."""

    name: str
    job: Job
    folder: Path

    @property
    def is_nemo(self) -> bool:
        return self.name == "nemo"

    @property
    def package(self) -> str:
        return PACKAGES[self.name]

    @cached_property
    def case(self) -> Case:
        """The job's case, with what only this project knows where this is its side."""
        if self.is_nemo or not self.job.own_options:
            return self.job.case
        return replace(self.job.case, config=changed(self.job.case.config, self.job.own_options))

    @cached_property
    def computed_case(self) -> Case:
        """The case of which models are built: without data, which they don't need, and neutralised."""
        if not self.case.is_model:
            return self.case
        return replace(self.case, config=changed(without_data(self.case.config), self.job.neutralised))

    @property
    def repairs(self) -> list[str]:
        """What is put right in NeMo's model, which raises otherwise: see `add_missing_transpose`."""
        return [MISSING_TRANSPOSE] if self.is_nemo and lacks_transpose(self.case) else []

    def fresh(self, seed: int = SEED) -> nn.Module:
        """A new model or encoder with weights of its own, on the CPU."""
        seed_everything(seed)
        module = self.computed_case.build(self.package)
        if self.repairs:
            add_missing_transpose(module)
        return module

    def build(self) -> nn.Module:
        """A new model or encoder with the job's weights, on the CPU."""
        module = self.fresh()
        copy_weights(self.job.start, module)
        return module


def without_data(config: dict) -> dict:
    """A model's config without the sections of which its constructor opens files."""
    return config | dict.fromkeys(DATA)


def changed(config: dict, values: Mapping[str, Any]) -> dict:
    """A config with other values at these dotted keys."""
    changed_config = OmegaConf.create(config)
    for key, value in values.items():
        OmegaConf.update(changed_config, key, value, force_add=True)
    return OmegaConf.to_container(changed_config)


def lacks_transpose(case: Case) -> bool:
    return case.class_path.endswith(DENOISE) and case.config.get("mask_position") == "post_conv"


def add_missing_transpose(model: nn.Module) -> None:
    """Hand the subsampling (B, T, F) where NeMo's denoising model hands it features as they are, (B, F, T).

    It calls the subsampling itself for the clean speech, and through the encoder, which transposes, for the noisy one.
    A NeMo in which this is right, so that the last axis is that of the mel bins, is left alone.
    """
    num_bins = model.cfg.encoder.feat_in
    through_encoder = []

    def transpose(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        x = kwargs["x"]
        if through_encoder or (x.shape[1] != num_bins and x.shape[2] == num_bins):
            return args, kwargs
        return args, kwargs | {"x": x.transpose(1, 2)}

    model.pre_encoder.register_forward_pre_hook(lambda *call: through_encoder.append(True))
    model.pre_encoder.register_forward_hook(lambda *call: through_encoder.clear(), always_call=True)
    model.pre_encoder.pre_encode.register_forward_pre_hook(transpose, with_kwargs=True)


def origin(side: str) -> dict[str, str]:
    """What stands in a record about its making."""
    version = {"nemo_version": import_module("nemo").__version__} if side == "nemo" else {}
    script = "tools/compare_with_nemo.py"
    return {"side": side, **version, "torch_version": torch.__version__, "seed": str(SEED), "script": script}


def with_start_weights(job: Job, folder: Path) -> Job:
    """The job with weights that NeMo draws; as it is where it has some. folder: as that of a side."""
    if job.start:
        return job
    module = Side("nemo", job, folder).fresh()
    shift_weights(module, SEED)
    return replace(job, start=start_weights(module))
