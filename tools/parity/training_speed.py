"""How long a training step takes on one side, how much memory it needs, and how fast data is loaded."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from tools.benchmark import worker
from tools.parity.cases import seed_everything
from tools.parity.levels import training_loss
from tools.parity.records import load
from tools.parity.side import Side
from tools.peak_memory import peak_bytes

PARTS = ("forward", "backward", "optimizer")  # of a training step


class Training:
    """A model that trains on one batch, on the CPU in float32, as the job's config says, dropout included.

    Built when all is imported: `memory` counts from here.
    """

    def __init__(self, side: str):
        self.side = side
        self.memory_before = peak_bytes()

    @property
    def tasks(self) -> dict[str, Callable[..., dict]]:
        """`train` comes first; `epoch` comes last, as it takes memory too, and sets torch to one thread."""
        return {"train": self.train, "step": self.step, "memory": self.memory, "epoch": self.epoch}

    def train(self, job: str, threads: int) -> dict[str, float]:
        """Build the model of a job's file and do a first step, which allocates."""
        torch.set_num_threads(threads)
        asked = replace(load(Path(job)).job, neutralised={})
        side = Side(self.side, asked, Path(job).parent)
        self.inputs = asked.inputs
        self.model = side.fresh().train()
        self.optimizer, self.scheduler = self.model.setup_optimization(optim_config=side.case.build_optim())
        return self.step(seed=0)

    def step(self, seed: int) -> dict[str, float]:
        """Seconds of each of PARTS: waveform to loss, gradients, and the step of optimizer and scheduler."""
        seed_everything(seed)
        times = [time.perf_counter()]
        loss = training_loss(self.model, self.inputs)
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        self.optimizer.step()
        if self.scheduler:
            self.scheduler["scheduler"].step()
        self.optimizer.zero_grad()
        times.append(time.perf_counter())
        return {part: end - start for part, start, end in zip(PARTS, times, times[1:])}

    def memory(self) -> dict[str, int | None]:
        """bytes: how much the peak has grown since all was imported; None where it isn't known."""
        return {"bytes": None if self.memory_before is None else peak_bytes() - self.memory_before}

    def epoch(self, section: dict, seed: int) -> dict:
        """See `tools.benchmark.worker`."""
        return worker.Side(self.side).epoch(section, seed)
