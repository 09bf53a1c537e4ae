"""The model that a run gives away: one `.nemo` file beside its checkpoints."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from utils.checkpoint_files.checkpoint_file import load_checkpoint
from utils.logging import logger, warn_once
from utils.training.ema import averaged_state_dict, averaged_weights

SUFFIX = ".nemo"


class RunModel:
    """Writes `path`, whole or not at all, over the one before: the weights, without what only training needs.

    at_checkpoints: at every checkpoint that is saved. at_end: when training ends, also by a time limit.
    best_only: by the monitor: at checkpoints only when one is the best so far, and at the end the best of the run.
    Where a run keeps a moving average of its weights (`utils.training.ema`), that is what is written. NeMo 3.0.0 writes
    the average at checkpoints, and at the end the weights as trained over it.
    """

    def __init__(self, path: Path, *, at_checkpoints: bool = False, at_end: bool = True, best_only: bool = False):
        if path.suffix != SUFFIX:
            raise ValueError(
                f"exp_manager.checkpoint_callback_params.postfix must end in {SUFFIX}, by which the file {path.name} "
                "would be known"
            )
        if best_only and not (at_checkpoints or at_end):
            logger.warning(
                "exp_manager.checkpoint_callback_params.save_best_model=true has no effect without always_save_nemo or "
                "save_nemo_on_train_end"
            )
        self.path, self._at_checkpoints, self._at_end, self._best_only = path, at_checkpoints, at_end, best_only
        self._step = -1  # of the last writing: a best and a last checkpoint are saved one after the other

    def checkpoint_saved(self, trainer: Trainer, checkpoint: str, best: str) -> None:
        """A checkpoint has been written; `best` is the best so far."""
        wanted = self._at_checkpoints and (checkpoint == best or not self._best_only)
        if wanted and trainer.global_step != self._step:
            self._step = trainer.global_step
            with averaged_weights(trainer):
                self._write(trainer.lightning_module)

    def training_ended(self, trainer: Trainer, best: str) -> None:
        """The last checkpoint has been written; `best` is the best of the run."""
        if not self._at_end:
            return
        if self._best_only and self._write_best(trainer, best):
            logger.info("the best model of the run is in %s", self.path)
            return
        with averaged_weights(trainer) as are_averaged:
            if self._write(trainer.lightning_module):
                logger.info("the model%s is in %s", ", its averaged weights," if are_averaged else "", self.path)

    def _write(self, model: LightningModule) -> bool:
        if not hasattr(model, "save_to"):
            warn_once(f"{type(model).__name__} has no save_to: no {SUFFIX} file is written")
            return False
        model.save_to(self.path)  # on rank zero
        return True

    def _write_best(self, trainer: Trainer, best: str) -> bool:
        """Not by `trainer`'s restoring it, as NeMo does: training and its model stay as they are."""
        if not trainer.is_global_zero:
            return True
        try:
            checkpoint = load_checkpoint(best, needs_configs=False)
        except (OSError, ValueError) as error:
            reason = error if best else "no checkpoint was the best"
            logger.warning("save_best_model: %s; the last weights are written instead", reason)
            return False
        with holding(trainer.lightning_module, averaged_state_dict(checkpoint) or checkpoint["state_dict"]):
            return self._write(trainer.lightning_module)


NO_MODEL = RunModel(Path(f"none{SUFFIX}"), at_end=False)


@contextmanager
def holding(model: LightningModule, state_dict: Mapping[str, Tensor]) -> Iterator[None]:
    """The model has these weights inside, and its own again after."""
    own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state_dict)
    try:
        yield
    finally:
        model.load_state_dict(own)
