"""Which checkpoints a run keeps, and that an interrupted one leaves nothing behind."""

import signal
from contextlib import nullcontext
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from utils.checkpoint_files.files import remove_unfinished
from utils.experiment.going_on import is_last
from utils.experiment.run_model import NO_MODEL, RunModel
from utils.logging import logger
from utils.ranks import from_all_ranks
from utils.training.ema import averaged_weights
from utils.training.stop_signals import is_inside_step, requeue, requeue_signal, stop_signal_of


class Checkpoints(ModelCheckpoint):
    """Lightning's ModelCheckpoint for runs that are interrupted and go on.

    With `save_last` it always saves the end of training, also by Ctrl-C or SIGTERM; Lightning alone leaves out the
    steps after the last validation. A file that is to go is removed once its successor is whole, also the one that
    the run went on from, which Lightning keeps for ever. What a killed run wrote or had yet to remove is removed when
    it goes on. The best ones are those that exist; the folder may have been moved, and how often to save may change.

    written: the files that stand or stood in the folder by this callback's doing; in its state, so that the next run
        knows which are its own.
    model: the .nemo file that is written beside checkpoints and at the end.
    A run that averages its weights saves the averages with `save_weights_only`, since nothing goes on from such a file.
    """

    save_on_sigterm = False
    written: frozenset[str] = frozenset()
    model: RunModel = NO_MODEL
    _defer_save_until_validation = False  # Lightning's, from 2.6 on: the best one is saved at the next validation
    _waits = False  # the same, in checkpoints
    _has_trained = False

    @property
    def state_key(self) -> str:
        """Without the options that Lightning puts into it: a run may go on with others."""
        return "Checkpoints"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        starts = from_all_ranks(trainer.ckpt_path and str(trainer.ckpt_path))
        if len({*starts}) > 1:
            raise ValueError(
                f"ranks would go on from other checkpoints, {starts}: put the run's folder on a shared disk"
            )

    # going on

    def state_dict(self) -> dict:
        return {**super().state_dict(), "written": sorted(self.written), "waits": self._waits}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict) -> None:
        """Before `load_state_dict`: what rank zero finds in the folder is what all ranks take for there."""
        states = checkpoint["callbacks"]
        if self.state_key in states:
            states[self.state_key] = trainer.strategy.broadcast(self._still_true(states[self.state_key]))
        if not states.get(self.state_key, {}).get("waits"):
            self._last_global_step_saved = checkpoint["global_step"]

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.written = frozenset(state_dict["written"])
        self.current_score = state_dict["current_score"]
        self._waits = self._defer_save_until_validation = state_dict.get("waits", False)

    def _still_true(self, state: dict) -> dict:
        """A state of this callback, of the folder as it is now: without files that are gone, and by their new place."""

        def here(path: str) -> str:
            is_own = bool(path) and Path(path).is_relative_to(state["dirpath"])
            place = Path(self.dirpath, Path(path).relative_to(state["dirpath"])) if is_own else None
            return str(place) if place and place.is_file() else ""

        scores = {here(path): score for path, score in state["best_k_models"].items() if here(path)}
        written = {here(path) for path in state["written"] if here(path)}
        if state["monitor"] != self.monitor:  # other scores: those files stay, and aren't counted
            written, scores = {path for path in written if is_last(path)}, {}
        to_best, to_worst = (min, max) if self.mode == "min" else (max, min)
        while len(scores) > self.save_top_k > 0:  # fewer are wanted than before
            scores.pop(to_worst(scores, key=scores.get))
        best = to_best(scores, key=scores.get) if scores else here(state["best_model_path"])
        is_full = len(scores) >= self.save_top_k if self.save_top_k > 0 else bool(scores)
        worst = to_worst(scores, key=scores.get) if is_full else ""
        return state | {
            "dirpath": self.dirpath,
            "best_k_models": scores,
            "kth_best_model_path": worst,
            "kth_value": scores.get(worst, self.kth_value),
            "best_model_path": best,
            "best_model_score": scores.get(best),
            "last_model_path": here(state["last_model_path"]),
            "written": sorted(written),
        }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._has_trained = True
        self._remove_leftovers(trainer)

    def _remove_leftovers(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            remove_unfinished(self.dirpath)
        kept = {*self.best_k_models, self.best_model_path, self.last_model_path}
        for path in self.written - kept:
            if self.save_top_k > 0 or is_last(path):
                self._remove_checkpoint(trainer, path)

    # files

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, batch, batch_idx: int) -> None:
        """Save the last one when it is due by steps or time, also where Lightning 2.6 waits for a validation.

        It does while the monitor has no value, and at the end of an epoch; the next validation may be hours away.
        """
        self._defer_save_until_validation = False
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        waits_anew = self._defer_save_until_validation
        self._waits = self._defer_save_until_validation = self._waits or waits_anew
        if waits_anew and self.save_last:
            saved_at = self._last_global_step_saved
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
            self._last_global_step_saved = saved_at  # else a validation after this very batch would save no best one

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._waits = False  # in what is saved now
        super().on_validation_end(trainer, pl_module)
        self._waits = self._defer_save_until_validation
        if not self._should_save_on_train_epoch_end(trainer):
            self._save_last_of_each(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if self._should_save_on_train_epoch_end(trainer):
            self._save_last_of_each(trainer)

    def _save_last_of_each(self, trainer: Trainer) -> None:
        """Save the last one also where it isn't among the best: Lightning 2.6 doesn't, and a kill would lose it all."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_now(trainer)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self.written |= {filepath}
        with averaged_weights(trainer) if self.save_weights_only else nullcontext():
            super()._save_checkpoint(trainer, filepath)
        self.model.checkpoint_saved(trainer, filepath, self.best_model_path)

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        super()._remove_checkpoint(trainer, filepath)
        self.written -= {filepath}

    def _should_remove_checkpoint(self, trainer: Trainer, previous: str, current: str) -> bool:
        """Also the one that the run went on from: it is in memory, and `current` is whole."""
        return previous != current and Path(self.dirpath).absolute() in Path(previous).absolute().parents

    # the end

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._save_now(trainer)
        self.model.training_ended(trainer, self.best_model_path)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that was killed after its last checkpoint, at its end, is finished: Lightning calls no other hook."""
        if trainer.ckpt_path is None or self._has_trained:
            return
        logger.warning(
            f"nothing to train: the checkpoint has {trainer.global_step} steps, and trainer.max_steps="
            f"{trainer.max_steps}, trainer.max_epochs={trainer.max_epochs} are no more: raise them to go on"
        )
        self._remove_leftovers(trainer)
        if self.save_last and not is_last(trainer.ckpt_path):  # killed between the best and the last one
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        self.model.training_ended(trainer, self.best_model_path)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save where the run stands if a signal ended it, unless that is inside a step (see `StopSignals`)."""
        super().on_exception(trainer, pl_module, exception)
        number = stop_signal_of(exception)
        if number and (self.save_on_sigterm or number != signal.SIGTERM) and not is_inside_step(trainer):
            self._save_now(trainer)
            if number == requeue_signal(trainer) and trainer.is_global_zero:
                requeue()
        if number:
            name = signal.Signals(number).name
            logger.info(f"training was stopped by {name}; last checkpoint: {self.last_model_path or 'none'}")

    def _save_now(self, trainer: Trainer) -> None:
        if self.save_last and self._last_global_step_saved != trainer.global_step:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
