"""Steps that would spoil the weights are left out: those whose loss or gradient is no finite number."""

import math
from dataclasses import asdict
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from utils.json_lines import append_line
from utils.logging import is_rank_zero, logger
from utils.ranks import from_all_ranks, largest_of_all_ranks
from utils.training.skipped_steps import SkippedStep, UsedBatch, cause_and_remedy
from utils.training.tensor_checks import (
    any_value_not_finite,
    copy_all,
    first_not_finite,
    gradients,
    norm,
    peak,
    running_statistics,
)

FILE_NAME = "skipped_steps.jsonl"
METRIC = "train_skipped_steps"
OPTION = "exp_manager.max_skipped_steps_in_a_row"


class FiniteSteps(Callback):
    """Leaves out each step of the optimizer whose loss or gradient isn't finite; too many in a row end the run.

    folder: of the run, where FILE_NAME lists what was left out; None: it is only counted and logged.
    max_in_a_row: more than this stop training with a ValueError of one line: what isn't finite and what to do.

    A step left out changes nothing: its gradients are dropped, so the optimizer finds none; the running statistics of
    batch norms, into which the batch went in its forward pass, are put back; averages of weights ask
    `step_was_skipped`. It counts as a step for the schedule, `max_steps` and the position in the data. All ranks
    leave out the same steps. A norm of gradients that overflows counts too: squared it would spoil Adam's state.

    With float16's GradScaler a gradient that overflows says that the scale is too high; the scaler lowers it and
    leaves out the step by itself, which isn't counted while the scale is above 1.
    A checkpoint of weights that aren't finite (a rate so high that one step overflows) is refused: ValueError.
    LBFGS, which takes several looks per step, leaves out the rest of its step.

    Cost: a norm of the gradients and a wait for the device per step, on several ranks a maximum of three numbers.
    Logs METRIC, the number since the start of training, which checkpoints keep. Source: ours; NeMo 3.0.0 goes on
    with weights that are no numbers.
    """

    metric_names = (METRIC,)

    def __init__(self, folder: Path | None = None, max_in_a_row: int = 10):
        if max_in_a_row < 0:
            raise ValueError(f"{OPTION}={max_in_a_row} must be at least 0: the number of steps that may be left out")
        self._path = None if folder is None else Path(folder) / FILE_NAME
        self._max_in_a_row = max_in_a_row
        self._skipped = self._in_a_row = 0
        self._batches: list[UsedBatch] = []  # of the step under way, on this rank
        self._is_over = True  # the step
        self.skipped_now = False  # it was left out
        self._statistics: list[Tensor] = []
        self._statistics_before: list[Tensor] = []
        self._clip_val: float | None = None  # put off in a step left out: torch can't clip the values of no gradients
        self._is_logged = False

    def state_dict(self) -> dict:
        return {"skipped": self._skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict) -> None:
        self._skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    # a step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._statistics = running_statistics(pl_module)
        self._statistics_before = [torch.empty_like(buffer) for buffer in self._statistics]
        self._is_over = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_logged = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if self._is_over:
            self._batches, self._is_over, self.skipped_now = [], False, False
            copy_all(self._statistics, self._statistics_before)
        names = getattr(batch, "sample_id", None)
        self._batches.append(UsedBatch(trainer.global_rank, list(names or ()), peak(batch)))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Lightning hands over the loss as it is differentiated: a part of the step's, times the scale of float16."""
        self._batches[-1].loss = loss.detach()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._is_over = True
        loss_is_finite, gradient_is_finite, statistics_are_finite = self._judge(optimizer, pl_module.device)
        if loss_is_finite and gradient_is_finite and statistics_are_finite:
            self._in_a_row = 0
            return
        if not self.skipped_now:  # LBFGS may come twice
            self._clip_val, trainer.gradient_clip_val = trainer.gradient_clip_val, None
        self.skipped_now = True
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        seeks_scale = scaler is not None and scaler.get_scale() > 1 and any_value_not_finite(optimizer)
        if not (seeks_scale and loss_is_finite and statistics_are_finite):
            self._take_note(trainer, pl_module, optimizer)
        copy_all(self._statistics_before, self._statistics)
        drop_gradients(optimizer, scaler)

    def _judge(self, optimizer: Optimizer, device: torch.device) -> list[bool]:
        """Whether the loss, the gradient and the running statistics are finite, on all ranks; waits for the device."""
        loss = sum(batch.loss for batch in self._batches)
        numbers = [loss, norm(gradients(optimizer)), norm(b for b in self._statistics if b.is_floating_point())]
        bad = ~torch.stack([torch.as_tensor(x, dtype=torch.float32, device=device) for x in numbers]).isfinite()
        return [not is_bad for is_bad in largest_of_all_ranks(bad.float()).tolist()]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Log the count once per epoch and where it changes: Lightning keeps the number meanwhile."""
        if self.skipped_now:
            trainer.gradient_clip_val = self._clip_val
        if self.skipped_now or not self._is_logged:
            pl_module.log(METRIC, float(self._skipped), on_step=True, on_epoch=False, batch_size=1)
            self._is_logged = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict) -> None:
        if name := first_not_finite(pl_module):
            raise ValueError(
                f"step {trainer.global_step}: no checkpoint is saved, as the weights aren't finite ({name}): go on "
                f"from an earlier one with a lower model.optim.lr (the rate is {self._rate(trainer):.3g})"
            )

    # a bad one

    def _take_note(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._skipped += 1
        self._in_a_row += 1
        step = self._describe(trainer, pl_module, optimizer)
        if self._path is not None and is_rank_zero():
            append_line(self._path, step.entry())
        logger.warning(f"step {step.step} is left out ({self._in_a_row} in a row): {step}{self._see()}")
        if self._in_a_row > self._max_in_a_row:
            raise ValueError(self._diagnosis(trainer, pl_module, step))

    def _describe(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> SkippedStep:
        """All ranks must call this."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        unscaled = trainer.accumulate_grad_batches / (scaler.get_scale() if scaler else 1)
        for batch in self._batches:
            batch.loss, batch.audio_peak = float(batch.loss) * unscaled, float(batch.audio_peak)
        batches = [asdict(batch) for rank in from_all_ranks(self._batches) for batch in rank]
        return SkippedStep(
            trainer.current_epoch,
            trainer.global_step,
            self._rate(trainer),
            sum(batch["loss"] for batch in batches) / len(batches),
            float(norm(gradients(optimizer))),
            [name for name, p in pl_module.named_parameters() if p.grad is not None and not p.grad.norm().isfinite()],
            batches,
        )

    def _diagnosis(self, trainer: Trainer, pl_module: LightningModule, step: SkippedStep) -> str:
        """One line: what isn't finite, under which settings, and what to do."""
        cause, remedy = cause_and_remedy(first_not_finite(pl_module), step.loudest, str(trainer.precision))
        return (
            f"step {step.step}: {self._in_a_row} steps in a row had a loss or gradient that isn't finite, more than "
            f"{OPTION}={self._max_in_a_row} allows: {step}; learning rate {step.learning_rate:.3g}, "
            f"precision {trainer.precision}; {cause}{self._see()}: {remedy}"
        )

    def _see(self) -> str:
        return "" if self._path is None else f"; see {self._path}"

    @staticmethod
    def _rate(trainer: Trainer) -> float:
        return float(trainer.optimizers[0].param_groups[0]["lr"])


def step_was_skipped(trainer: Trainer) -> bool:
    """Whether the step of the optimizer that has just ended was left out, for any reason."""
    return any(callback.skipped_now for callback in trainer.callbacks if isinstance(callback, FiniteSteps))


def drop_gradients(optimizer: Optimizer, scaler: torch.amp.GradScaler | None) -> None:
    """Make the optimizer's step do nothing.

    One that unscales gradients itself (`fused`) under a GradScaler must be shown one that overflows: without any,
    the scaler takes the step for an error of ours.
    """
    shows_overflow = scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if shows_overflow and parameter.grad is not None:
                parameter.grad.fill_(math.inf)
            else:
                parameter.grad = None
