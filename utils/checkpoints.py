"""Which checkpoints a run keeps."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from utils.logging import logger


class Checkpoints(ModelCheckpoint):
    """Lightning's ModelCheckpoint; with `save_last` it always saves the end of training, also by Ctrl-C or SIGTERM.

    Lightning alone leaves out the steps after the last validation.
    """

    save_on_sigterm = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._save_now(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        stopped = {SIGTERMException: self.save_on_sigterm, KeyboardInterrupt: True}
        if stopped.get(type(exception), False):
            self._save_now(trainer)
            logger.info(f"stopped by {type(exception).__name__}; last checkpoint: {self.last_model_path or 'none'}")

    def _save_now(self, trainer: Trainer) -> None:
        if self.save_last and self._last_global_step_saved != trainer.global_step:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
