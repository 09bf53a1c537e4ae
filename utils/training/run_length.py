"""How long a run will be, from the trainer's limits and the length of the training data."""

from math import ceil, inf

from lightning.pytorch import Trainer


def planned_run(trainer: Trainer) -> tuple[float, float]:
    """(steps of the optimizer, batches) from the first to the last of a fit; inf where nothing limits them.

    Known once the training data is set up (`on_train_start`). An epoch's last step may take fewer than
    `accumulate_grad_batches` batches.
    """
    batches_per_epoch, accumulate = trainer.num_training_batches, trainer.accumulate_grad_batches
    steps_per_epoch = inf if batches_per_epoch == inf else ceil(batches_per_epoch / accumulate)
    max_epochs = inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    max_steps = inf if trainer.max_steps == -1 else trainer.max_steps
    steps = min(max_epochs * steps_per_epoch, max_steps)
    if inf in (steps, steps_per_epoch):
        return steps, steps * accumulate
    epochs, rest = divmod(steps, steps_per_epoch)
    return steps, epochs * batches_per_epoch + rest * accumulate
