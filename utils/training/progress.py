"""One line that says how a run goes: loss, masked accuracy, audio seconds per second, time left, waiting for data."""

import logging
import shutil
import sys
import time
from math import inf

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from utils.logging import logger, own_file
from utils.training.run_length import planned_run

TERMINAL_SECONDS = 0.5  # between two refreshes of the line
LINE_SECONDS = 10.0  # between two lines where the output is no terminal


class SpeechProgress(ProgressBar):
    """A line that rewrites itself on a terminal, plain lines elsewhere; ASCII, which any console can print.

    What stands on the console in the end stands in the run's log file too.
    The model logs `train_loss` and `train_accuracy` and has `cfg.sample_rate`; batches have `audio_len` (B,) in
    samples, and may have `seconds`, whose `wait` is what training waited for them. Reading a number of the GPU waits
    for it, so numbers are read only for a line that is shown.
    """

    def __init__(self):
        super().__init__()
        self._enabled = True  # Lightning disables it on all ranks but the first
        self._is_training = False
        self._line = ""  # the unfinished one on the terminal

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._total_steps, _ = planned_run(trainer)
        self._first_step = trainer.global_step
        self._seconds = 0.0  # spent on training steps, as far as shown
        self._is_training = True
        logger.addFilter(self._make_room)
        self._start_counting()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self._batches += 1
        self._audio_samples = self._audio_samples + batch.audio_len.sum()
        self._waited_seconds += getattr(batch, "seconds", {}).get("wait", 0.0)
        if time.monotonic() - self._since >= (TERMINAL_SECONDS if self._on_terminal else LINE_SECONDS):
            self._show_training(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_training:
            self._show_training(trainer, pl_module)
            self._end_line()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_training:
            self._show(f"step {trainer.global_step:>6}  {metrics_text(trainer, 'val_')}")
            self._end_line()
            self._start_counting()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show_training(trainer, pl_module)
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    def _end(self) -> None:
        self._end_line()
        self._is_training = False
        logger.removeFilter(self._make_room)

    def _make_room(self, record: logging.LogRecord) -> bool:
        """A filter that lets every message through, and ends the unfinished line before it."""
        self._end_line()
        return True

    def _start_counting(self) -> None:
        self._batches, self._audio_samples, self._waited_seconds = 0, 0, 0.0
        self._since = time.monotonic()

    def _show_training(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show what was trained since the last line, if anything was."""
        if not self._enabled or self._batches == 0:
            return
        seconds = max(time.monotonic() - self._since, 1e-9)
        self._seconds += seconds
        speech_seconds = float(self._audio_samples) / pl_module.cfg.sample_rate * trainer.world_size
        steps_done = max(trainer.global_step - self._first_step, 1)
        left = (self._total_steps - trainer.global_step) * self._seconds / steps_done
        self._show(
            f"step {trainer.global_step:>6}{of(self._total_steps)}  {metrics_text(trainer, 'train_')}  "
            f"{speech_seconds / seconds:.1f} s of audio/s  {clock(left)} left{waiting(self._waited_seconds / seconds)}"
        )
        self._start_counting()

    def _show(self, line: str) -> None:
        """Print `line`; on a terminal over the unfinished one before it."""
        if not self._enabled:
            return
        if self._on_terminal:
            line = line[: shutil.get_terminal_size().columns - 1]
            print("\r" + line.ljust(len(self._line)), end="", file=sys.stderr, flush=True)
            self._line = line
        else:
            print(line, file=sys.stderr, flush=True)
            own_file.write(logging.INFO, line)

    def _end_line(self) -> None:
        if self._line:
            print(file=sys.stderr, flush=True)
            own_file.write(logging.INFO, self._line.rstrip())
            self._line = ""


def metrics_text(trainer: Trainer, prefix: str) -> str:
    """Loss and accuracy of training or validation, as far as they are logged: 'loss 5.012  accuracy 0.113'."""
    logged = trainer.callback_metrics
    return "  ".join(
        f"{prefix.replace('train_', '')}{name} {float(logged[prefix + name]):.3f}"
        for name in ("loss", "accuracy")
        if prefix + name in logged
    )


def waiting(share: float) -> str:
    """'  waiting for data 12 %', of the time since the last line; nothing where the batches don't say."""
    return f"  waiting for data {100 * min(share, 1.0):.0f} %" if share else ""


def of(total_steps: float) -> str:
    return "" if total_steps == inf else f"/{int(total_steps)}"


def clock(seconds: float) -> str:
    """'1:02:03', '2:03', or '?' where nobody knows."""
    if seconds == inf:
        return "?"
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
