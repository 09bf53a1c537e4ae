"""Where a restored run goes on: Lightning's counters of epochs and batches are made to agree with the data loader's."""

from typing import Protocol

from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

COUNTS = ("ready", "started", "processed", "completed")
# Lightning 2.4 takes a batch for unfinished when the checkpoint was made at its end; later versions know this case
KNOWS_BATCH_END = hasattr(_TrainingEpochLoop, "restarted_on_train_batch_end")


class Loader(Protocol):
    """See `data.loader.ResumableLoader`."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...

    def standing(self) -> tuple[int, int, bool] | None: ...


def align_progress(checkpoint: dict, loader: Loader) -> None:
    """Change a checkpoint that is about to be restored so that training goes on with exactly the next batch.

    For a model's `on_load_checkpoint`; `loader` is its training loader, built already. Lightning alone goes wrong
    (2.6.6; 2.4.0 in other ways) where
    - the number of ranks is another: it counts the batches of one rank;
    - the epoch was cut by `max_steps` and the run is now longer: it takes the epoch for finished;
    - a run with `max_steps` was saved at the end of an epoch: it leaves out the next one, but for a batch at times;
    - a run was stopped (Ctrl-C) within a step: the batch of that step counts as used;
    - other data starts its epoch anew.
    """
    progress = checkpoint.get("loops", {}).get("fit_loop", {})
    states = progress.get("state_dict", {}).get("combined_loader", [])
    if len(states) != 1 or not states[0]:
        return
    batches, epochs = progress["epoch_loop.batch_progress"], progress["epoch_progress"]
    count = batches["current"]
    if count["ready"] > count["processed"]:
        undo_step(progress, states[0])
    loader.load_state_dict(states[0])
    standing = loader.standing()
    if standing is None:
        return
    states[0] = loader.state_dict()
    epoch, batches_done, is_finished = standing
    if not KNOWS_BATCH_END:
        for counts in (count, batches["total"]):
            counts["completed"] = counts["processed"]
    is_over = is_finished or batches["is_last_batch"]  # the latter with `limit_train_batches`
    is_counted = epochs["current"]["processed"] > epoch
    if is_over and is_counted:
        batches_done, epoch = 0, epoch + 1
    shift = batches_done - count["processed"]
    for name in COUNTS:
        count[name] += shift
    if is_counted:
        begun = 0 if is_over else 1
        for counts in (epochs["current"], epochs["total"]):
            counts.update(ready=epoch + begun, started=epoch + begun, processed=epoch, completed=epoch)
    if is_counted or not is_over:
        batches["is_last_batch"] = False


def undo_step(progress: dict, loader_state: dict) -> None:
    """Of a step that was interrupted: its batch is the next one, and the step before it has just ended."""
    if loader_state["before_last"] is not None:
        loader_state["now"] = loader_state["before_last"]
    batches = progress["epoch_loop.batch_progress"]
    ended = 1 if KNOWS_BATCH_END else 0
    for counts in (batches["current"], batches["total"]):
        processed = counts["processed"]
        counts.update(ready=processed, started=processed, completed=max(0, processed - ended))
    progress["epoch_loop.state_dict"]["_batches_that_stepped"] -= ended  # Lightning counts it then, when restored
