"""A log file per process: log.txt of rank zero, log_globalrank-1_localrank-1.txt and so on of the others."""

import logging
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.multiprocessing.spawn import ProcessRaisedException

from utils.logging import is_rank_zero, own_file

LOG_FILE, LOG_FILE_OF_RANK, ALL_LOG_FILES = "log.txt", "log_globalrank-{}_localrank-{}.txt", "log*.txt"
STOPPED = (KeyboardInterrupt, SIGTERMException)  # no errors; what saves the checkpoint then says so


def log_path(folder: Path, global_rank: int, local_rank: int) -> Path:
    return folder / (LOG_FILE_OF_RANK.format(global_rank, local_rank) if global_rank else LOG_FILE)


class LogFile(Callback):
    """Each process writes what it says, warnings and the traceback of an uncaught error into its file in `folder`.

    Rank zero begins at once, the others in `setup`, where they learn its folder: a process that torchrun or Slurm
    started doesn't know the version that rank zero made up. A process that ddp_spawn started leaves no traceback
    behind, so the one that started it writes it into that process' file.
    NeMo 3.0.0 writes nemo_log_globalrank-*_localrank-*.txt only under NEMO_TESTING, and otherwise nemo_error_log.txt
    and lightning_logs.txt of rank zero.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        if is_rank_zero():
            own_file.open(log_path(folder, 0, 0))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._folder = trainer.strategy.broadcast(self._folder)
        own_file.open(log_path(self._folder, trainer.global_rank, trainer.local_rank))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The file stays open: callbacks that come after this one have their say."""
        if isinstance(exception, ProcessRaisedException):
            local_rank = exception.error_index
            path = log_path(self._folder, trainer.node_rank * trainer.num_devices + local_rank, local_rank)
            own_file.open(path)
        if not isinstance(exception, STOPPED):
            own_file.write(logging.ERROR, "the run ends with an error", exception)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        own_file.close()
