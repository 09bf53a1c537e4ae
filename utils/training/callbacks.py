"""Lightning callbacks of a run: when it validates, what it times, when it ends."""

import time
from collections import deque
from collections.abc import Callable
from statistics import fmean

import torch
from lightning.pytorch import LightningModule, Trainer, callbacks
from lightning.pytorch.callbacks import Callback, Timer

from utils.logging import info_once
from utils.training.run_length import planned_run

REDUCTIONS: dict[str, Callable] = {"mean": fmean, "sum": sum, "min": min, "max": max}


class ValidateAtLeastOnce(Callback):
    """`trainer.val_check_interval` works for data and runs of any length.

    An interval of more batches than an epoch has counts across epochs, as with `check_val_every_n_epoch: null`: with
    the 2500 of NeMo's config Lightning refuses a small data set. A run that is shorter validates after its last batch,
    instead of never.
    """

    _every_n_epochs: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._every_n_epochs = trainer.check_val_every_n_epoch
        if stage == "fit" and is_count(trainer.val_check_interval):
            trainer.check_val_every_n_epoch = None  # else Lightning compares before anybody knows the epoch's length

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        interval, epoch_batches = trainer.val_check_interval, trainer.num_training_batches
        if is_count(interval) and interval <= epoch_batches:
            trainer.check_val_every_n_epoch = self._every_n_epochs
        elif is_count(interval) and self._every_n_epochs is not None and sum(trainer.num_val_batches):
            info_once(
                f"trainer.val_check_interval={interval} is more batches than an epoch has ({epoch_batches}): "
                "they are counted across epochs"
            )
        _, batches = planned_run(trainer)
        if trainer.check_val_every_n_epoch is None and trainer.val_check_batch is not None:
            trainer.val_check_batch = min(trainer.val_check_batch, batches)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.check_val_every_n_epoch = self._every_n_epochs


def is_count(interval: object) -> bool:
    """Of batches; not a fraction of an epoch, nor a time."""
    return isinstance(interval, int) and not isinstance(interval, bool)


class StepTimer(Callback):
    """Log the seconds of each step as '<stage>_step_timing in s', NeMo's names; `buffer_size` last ones reduced.

    Of an evaluation it logs the mean, with its other numbers. NeMo 3.0.0 logs each step of it, but at the number of its
    batch: Lightning has no place for the step of training there.
    sync_cuda: wait for the GPU before each reading; without it a reading is the time to queue the work.
    """

    def __init__(self, reduction: str = "mean", sync_cuda: bool = False, buffer_size: int = 1):
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"exp_manager.step_timing_kwargs.reduction={reduction!r} is not one of {', '.join(REDUCTIONS)}"
            )
        if buffer_size < 1:
            raise ValueError(f"exp_manager.step_timing_kwargs.buffer_size={buffer_size} must be at least 1")
        self._reduce, self._sync_cuda, self._buffer_size = REDUCTIONS[reduction], sync_cuda, buffer_size
        self._started: dict[str, float] = {}
        self._seconds: dict[str, deque[float]] = {}

    def _now(self) -> float:
        if self._sync_cuda and torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.monotonic()

    def _start(self, name: str) -> None:
        self._started[name] = self._now()

    def _stop(self, name: str, pl_module: LightningModule) -> None:
        seconds = self._seconds.setdefault(name, deque(maxlen=self._buffer_size))
        seconds.append(self._now() - self._started[name])
        in_training = name.startswith("train")
        value = self._reduce(seconds)
        pl_module.log(f"{name}_timing in s", value, on_step=in_training, on_epoch=not in_training, batch_size=1)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._start("train_step")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._stop("train_step", pl_module)

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        self._start("train_backward")

    def on_after_backward(self, trainer, pl_module) -> None:
        self._stop("train_backward", pl_module)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self._start("validation_step")

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self._stop("validation_step", pl_module)

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self._start("test_step")

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self._stop("test_step", pl_module)


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's EarlyStopping, but a run that goes on has the patience of its config, not of its checkpoint."""

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})


class RunTimer(Timer):
    """Lightning's Timer, but each run of a resumed training has the whole of `max_time_per_run`."""

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        """Time that earlier runs took doesn't count."""
