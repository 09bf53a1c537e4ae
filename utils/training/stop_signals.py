"""A run that is told to stop does so between two steps, where a checkpoint of it is exact."""

import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from types import FrameType

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException

from utils.logging import logger
from utils.ranks import largest_of_all_ranks

EXIT_CODE = 128  # plus the signal's number, as shells have it


class StopSignals(Callback):
    """Ctrl-C, SIGTERM and SLURM's requeue signal end training after the step, or the batch of an evaluation, underway.

    All ranks stop at the same step, whichever of them was told; then `Checkpoints` saves the last one, and the exit
    code of rank zero is 130 (Ctrl-C), 143 (SIGTERM) or 138 (SIGUSR1 of SLURM). A second Ctrl-C interrupts at once.
    While a checkpoint is being written a signal changes nothing; a second Ctrl-C leaves the file that was there.

    Lightning's own handlers (2.4 to 2.6) act wherever the program is: Ctrl-C may stop amid a step of the optimizer,
    SIGTERM makes one rank broadcast while others reduce gradients, and SLURM's signal saves weights of half a step.
    """

    def __init__(self):
        self._signal = 0  # number of the one that came first

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace Lightning's handlers, which it puts back itself when the trainer is done."""
        self._signal = int(signal.SIGTERM) if trainer.received_sigterm else 0
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._interrupt)
            for number in (signal.SIGTERM, requeue_signal(trainer)):
                if number is not None:
                    signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = self._signal or number

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._signal == number:
            raise KeyboardInterrupt
        self._signal = self._signal or number
        # not by a logger, which may wait for what it interrupted
        os.write(2, b"\nCtrl-C: training stops after this step; a second Ctrl-C stops it at once\n")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._agree(trainer)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._agree(trainer)

    def _agree(self, trainer: Trainer) -> None:
        """Raise the flag by which Lightning's loops stop, on all ranks if on any."""
        if trainer.world_size > 1:
            number = torch.tensor(self._signal, device=trainer.strategy.root_device)
            self._signal = int(largest_of_all_ranks(number))
        if self._signal:
            trainer._signal_connector.received_sigterm = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Before the callbacks that save. Other ranks exit with 0: Lightning kills a run of whose ranks one fails."""
        if isinstance(exception, SIGTERMException) and self._signal:
            exception.signal_number = self._signal
            exception.code = EXIT_CODE + self._signal if trainer.is_global_zero else 0


def stop_signal_of(exception: BaseException) -> int:
    """Number of the signal that ended a run; 0 where something else did."""
    if isinstance(exception, KeyboardInterrupt):
        return int(signal.SIGINT)
    return getattr(exception, "signal_number", int(signal.SIGTERM)) if isinstance(exception, SIGTERMException) else 0


def is_inside_step(trainer: Trainer) -> bool:
    """Whether an exception came where a checkpoint wouldn't be exact."""
    batches = trainer.fit_loop.epoch_loop.batch_progress.current
    return batches.started > batches.processed


def requeue_signal(trainer: Trainer) -> int | None:
    """What SLURM sends before it takes the machine away, where Lightning would requeue the job."""
    environment = trainer._accelerator_connector.cluster_environment
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue or not hasattr(signal, "SIGUSR1"):
        return None
    return int(environment.requeue_signal or signal.SIGUSR1)


def requeue(environment: Mapping[str, str] = os.environ) -> None:
    """Put this SLURM job back into the queue; a failure is said, and the checkpoint is there."""
    array = environment.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{environment.get('SLURM_ARRAY_TASK_ID')}" if array else environment.get("SLURM_JOB_ID", "")
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        problem = f"exit code {done.returncode} {done.stderr}" if done.returncode else ""
    except OSError as error:
        problem = str(error)
    if problem:
        logger.error(f"scontrol requeue {job} failed: {' '.join(problem.split())}; submit the job again to go on")
    else:
        logger.info(f"requeued SLURM job {job}")
