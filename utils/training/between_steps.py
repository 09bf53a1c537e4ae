"""What Lightning keeps in memory only, put into checkpoints: a resumed run is where the uninterrupted one was."""

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from utils.training.plateau_steps import PlateauSteps
from utils.training.resume import KNOWS_BATCH_END


class BetweenSteps(Callback):
    """Keeps in checkpoints the gradients summed so far, the metrics last logged, and which validation or step is due.

    With `accumulate_grad_batches` a checkpoint may come between the batches of a step, as a validation or SIGTERM comes
    there; then it holds the gradients so far, their mean over ranks. Names of checkpoints, the best ones, early
    stopping and ReduceLROnPlateau go by the metrics, `val_loss` among them. A validation that a run was killed or
    stopped in, or before, is done when it goes on; Lightning 2.6 leaves it out. Lightning 2.4 repeats a validation
    that had already finished; early stopping counts it twice.
    """

    def __init__(self):
        self._restored: dict = {}
        self._plateaus = PlateauSteps()
        self._validated_at = -1  # batches of training before the last validation that came to its end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated_at = trainer.fit_loop.epoch_loop.batch_progress.total.processed

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict) -> None:
        metrics = {name: torch.as_tensor(value).detach().cpu() for name, value in trainer.callback_metrics.items()}
        checkpoint["callbacks"][self.state_key] = {
            "metrics": metrics,
            "gradients": summed_gradients(trainer, pl_module) if is_between_batches_of_step(trainer) else {},
            "validated_at": self._validated_at,
            "validation_due": is_validation_due(trainer, self._validated_at),
            "step_counted": is_step_counted(trainer),
            "plateau_steps_due": self._plateaus.due(trainer),
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict) -> None:
        state = checkpoint["callbacks"].get(self.state_key)
        if trainer.state.fn != "fit" or state is None:
            return
        progress = checkpoint["loops"]["fit_loop"]
        if state["validation_due"] or not KNOWS_BATCH_END:
            validate_first(progress)
        if not (state["validation_due"] or state["step_counted"] or KNOWS_BATCH_END):
            progress["epoch_loop.state_dict"]["_batches_that_stepped"] += 1  # 2.6 does it itself

    def load_state_dict(self, state_dict: dict) -> None:
        self._restored, self._validated_at = state_dict, state_dict["validated_at"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.callback_metrics.update(self._restored.get("metrics", {}))
        if self._restored:
            self._plateaus.hold(trainer, self._restored.get("plateau_steps_due", []))
        parameters = dict(pl_module.named_parameters())
        for name, gradient in self._restored.get("gradients", {}).items():
            parameters[name].grad = gradient.to(parameters[name].device)
        self._restored = {}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where nothing was left to train: for the name of a last checkpoint."""
        if self._restored:
            trainer.callback_metrics.update(self._restored["metrics"])
            self._plateaus.hold(trainer, self._restored.get("plateau_steps_due", []))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._plateaus.epoch_starts(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        self._plateaus.batch_starts(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._plateaus.release(trainer, pl_module)


def is_between_batches_of_step(trainer: Trainer) -> bool:
    """Whether gradients of some batches of a step are there, and others are to come; the last of an epoch ends one."""
    batches = trainer.fit_loop.epoch_loop.batch_progress
    count = batches.current
    ends_epoch = batches.is_last_batch and count.ready == count.processed
    return count.processed % trainer.accumulate_grad_batches != 0 and not ends_epoch


def summed_gradients(trainer: Trainer, model: LightningModule) -> dict[str, Tensor]:
    """By parameter; all ranks must call this."""
    named = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {
        name: trainer.strategy.reduce(grad.detach().clone(), reduce_op="mean").cpu() for name, grad in named.items()
    }


def is_validation_due(trainer: Trainer, validated_at: int) -> bool:
    """Whether Lightning would validate after the last batch, and hasn't."""
    loop = trainer.fit_loop.epoch_loop
    count = loop.batch_progress.total
    if not count.ready == count.processed > 0 or count.processed == validated_at:
        return False
    return loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


def is_step_counted(trainer: Trainer) -> bool:
    """Whether Lightning's count of steps for the logs needn't be raised any more for the last batch."""
    loop = trainer.fit_loop.epoch_loop
    count = loop.batch_progress.current
    return count.completed == count.processed or loop._should_accumulate()


def validate_first(progress: dict) -> None:
    """Change the counters of a fit that is about to be restored, so that Lightning 2.6 validates before it trains.

    It has to look as if the run had been stopped in the first batch of that validation.
    """
    batches = progress["epoch_loop.batch_progress"]
    for counts in (batches["current"], batches["total"]):
        counts["completed"] = counts["processed"]
    progress["epoch_loop.val_loop.batch_progress"] = {
        "total": {"ready": 1, "started": 1, "processed": 0, "completed": 0},
        "current": {"ready": 0, "started": 0, "processed": 0, "completed": 0},
        "is_last_batch": False,
    }
