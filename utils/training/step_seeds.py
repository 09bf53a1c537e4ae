"""What a training step draws at random depends on the run's seed and the step's place, not on what was drawn before."""

import copy
import random
from collections.abc import Iterator

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn


class StepSeeds(Callback):
    """Seeds python, numpy and torch (all devices) at the start of each training batch from (run, epoch, batch, rank).

    So a resumed run draws the masks, dither and dropout of the uninterrupted one, though no generator's state is saved;
    what an evaluation draws in between changes nothing; ranks draw differently, also under `seed_everything`; and a
    run that goes on with another number of ranks is defined. A `random.Random` that a module holds (`preprocessor.rng`)
    is seeded likewise, from its own seed too.

    The run's seed is torch's initial one of rank zero when training starts: that of `seed_everything`, or without a
    `seed` a random one of that process; it stands in the checkpoint, and a resumed run keeps it.
    Source: ours. NeMo 3.0.0 seeds all ranks alike and saves no generator, so a resumed run draws anew.
    """

    def __init__(self):
        self._run_seed: int | None = None
        self._generators: list[tuple[random.Random, int]] = []  # of modules, with a number that stands for their seed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._run_seed is None:
            self._run_seed = trainer.strategy.broadcast(torch.initial_seed())
        self._generators = [(generator, copy.copy(generator).getrandbits(64)) for generator in generators_of(pl_module)]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        place = (self._run_seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        seed_all(place)
        for generator, own_seed in self._generators:
            generator.seed(str((own_seed, *place)))

    def state_dict(self) -> dict:
        return {"run_seed": self._run_seed}

    def load_state_dict(self, state_dict: dict) -> None:
        self._run_seed = state_dict["run_seed"]


def seed_all(place: tuple[int, ...]) -> None:
    """Seed every global generator of this process from whole numbers >= 0."""
    seed, *words = np.random.SeedSequence(place).generate_state(4, np.uint64).tolist()
    torch.manual_seed(seed)
    random.seed(words[0])
    np.random.seed(np.array(words[1:], np.uint64).view(np.uint32))


def generators_of(model: nn.Module) -> Iterator[random.Random]:
    """Those that its modules hold, in their order."""
    for module in model.modules():
        yield from (value for value in vars(module).values() if isinstance(value, random.Random))
