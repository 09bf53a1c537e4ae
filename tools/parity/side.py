"""One side of a comparison, NeMo or this project: a job, and models built for it."""

from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import nn

from tools.parity.cases import NEMO, OURS, SEED, Case, seed_everything, shift_weights
from tools.parity.records import Job, copy_weights, start_weights

PACKAGES = {"nemo": NEMO, "ours": OURS}


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
        config = OmegaConf.create(self.job.case.config)
        for key, value in self.job.own_options.items():
            OmegaConf.update(config, key, value, force_add=True)
        return replace(self.job.case, config=OmegaConf.to_container(config))

    def build(self) -> nn.Module:
        """A new model or encoder with the job's weights, on the CPU."""
        seed_everything(SEED)
        module = self.case.build(self.package)
        copy_weights(self.job.start, module)
        return module


def origin(side: str) -> dict[str, str]:
    """What stands in a record about its making."""
    version = {"nemo_version": import_module("nemo").__version__} if side == "nemo" else {}
    script = "tools/compare_with_nemo.py"
    return {"side": side, **version, "torch_version": torch.__version__, "seed": str(SEED), "script": script}


def with_start_weights(job: Job) -> Job:
    """The job with weights that NeMo draws; as it is where it has some."""
    if job.start:
        return job
    seed_everything(SEED)
    module = job.case.build(NEMO)
    shift_weights(module, SEED)
    return replace(job, start=start_weights(module))
