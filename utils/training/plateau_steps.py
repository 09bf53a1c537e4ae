"""ReduceLROnPlateau in a run that goes on: its step that was still to come when the checkpoint was saved is done."""

from collections.abc import Iterator

from lightning.pytorch import LightningModule, Trainer


class PlateauSteps:
    """Which schedulers that follow a metric had yet to step after the last batch.

    They step after the validation that follows a batch, or at the epoch's end, and checkpoints are saved before. A
    resumed Lightning (2.4 to 2.6) leaves that step out, or does it, by where it begins, and leaves out the one at the
    end of the epoch that it begins in. Here it does none until the next batch; what was due is done before that, so
    with the metrics of a validation that was due, too.
    """

    def __init__(self):
        self._epoch = 0  # of the last batch
        self._counts: list[int] = []  # steps of each scheduler before that batch
        self._due: list[int] | None = None  # schedulers, by their place; None: Lightning steps them
        self._intervals: list[str] = []  # while none steps

    def epoch_starts(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._due is None:
            step(trainer, pl_module, self.due(trainer))

    def batch_starts(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.release(trainer, pl_module)
        self._epoch = trainer.current_epoch
        self._counts = [config.scheduler.last_epoch for config in trainer.lr_scheduler_configs]

    def due(self, trainer: Trainer) -> list[int]:
        if self._due is not None:
            return self._due
        batches = trainer.fit_loop.epoch_loop.batch_progress.current
        return list(self._still_to_step(trainer)) if batches.ready == batches.processed else []

    def _still_to_step(self, trainer: Trainer) -> Iterator[int]:
        loop = trainer.fit_loop.epoch_loop
        ends = {"step": not loop._should_accumulate(), "epoch": loop._num_ready_batches_reached()}
        number = {"step": loop.batch_idx + 1, "epoch": self._epoch + 1}
        for place, (config, count) in enumerate(zip(trainer.lr_scheduler_configs, self._counts)):
            is_its_turn = ends[config.interval] and number[config.interval] % config.frequency == 0
            if config.reduce_on_plateau and is_its_turn and config.scheduler.last_epoch == count:
                yield place

    def hold(self, trainer: Trainer, due: list[int]) -> None:
        """Until `release` Lightning steps none of them."""
        self._due = due
        self._intervals = [config.interval for config in trainer.lr_scheduler_configs]
        for config in trainer.lr_scheduler_configs:
            if config.reduce_on_plateau:
                config.interval = "held"

    def release(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do what was due."""
        if self._due is None:
            return
        for config, interval in zip(trainer.lr_scheduler_configs, self._intervals):
            config.interval = interval
        step(trainer, pl_module, self._due)
        self._due = None


def step(trainer: Trainer, pl_module: LightningModule, places: list[int]) -> None:
    count = trainer.fit_loop.epoch_loop.scheduler_progress.total
    for place in places:
        config = trainer.lr_scheduler_configs[place]
        pl_module.lr_scheduler_step(config.scheduler, trainer.callback_metrics[config.monitor])
        count.ready, count.completed = count.ready + 1, count.completed + 1
