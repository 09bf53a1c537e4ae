"""What bounds a run: how long training waits for data, where loading spends its time, what to change about it."""

import time
from collections import Counter
from dataclasses import dataclass, field

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from utils.cores import usable_cores
from utils.loaders import from_loaders
from utils.logging import logger

WAIT = "wait"  # among a batch's seconds: what training waited for it; the others are work, in whichever process
HARDLY_WAITS, IS_DOMINANT, WASTES_PADDING = 0.05, 0.4, 0.25  # shares of the run, of loading, of a batch
NAMES = {  # stage: its name in a sentence
    "decode": "opening and decoding",
    "resample": "resampling",
    "noise": "reading noise",
    "mix": "mixing",
    "room": "putting it into rooms",
    "collate": "padding into batches",
}
LESS_PADDING = (
    "batch utterances of similar length (model.train_ds.batch_duration with batch_size=null, or more num_buckets)"
)
REMEDIES = {  # stage: what makes it cheaper
    "decode": "store the audio as WAV or FLAC on a local disk",
    "resample": "store the audio at {sample_rate} Hz, the model's rate",
    "noise": "store the noise as WAV at {sample_rate} Hz, the model's rate",
    "mix": "lower max_num_segments or max_num_speakers of model.train_ds.batch_augmentor",
    "room": "lower model.train_ds.rir_prob, or shorten the impulse responses",
    "collate": LESS_PADDING,
}
CHEAPER_FILES = ("resample",)  # better made cheaper than spread over more workers


@dataclass
class Loading:
    """What it took to load some batches, and to train on them.

    wall_seconds: from the end of the batch before them to the end of the last, without validation.
    seconds: by stage, summed over workers; `wait` is the training process's.
    speech_samples, padded_samples: audio in the batches without and with padding; a tensor is read only when a number
        is asked for, since that waits for the GPU.
    """

    wall_seconds: float = 0.0
    batches: int = 0
    seconds: Counter[str] = field(default_factory=Counter)
    speech_samples: Tensor | int = 0
    padded_samples: int = 0

    def add(self, batch: object) -> None:
        self.batches += 1
        self.seconds.update(batch.seconds)
        self.speech_samples = self.speech_samples + batch.audio_len.sum()
        self.padded_samples += batch.audio.numel()

    def __add__(self, other: "Loading") -> "Loading":
        return Loading(
            self.wall_seconds + other.wall_seconds,
            self.batches + other.batches,
            self.seconds + other.seconds,
            self.speech_samples + other.speech_samples,
            self.padded_samples + other.padded_samples,
        )

    @property
    def wait_share(self) -> float:
        """Of the time, what training waited for data."""
        return min(self.seconds[WAIT] / max(self.wall_seconds, 1e-9), 1.0)

    @property
    def padding_share(self) -> float:
        """Of the audio in the batches, what is padding."""
        return 1.0 - float(self.speech_samples) / self.padded_samples if self.padded_samples else 0.0

    @property
    def stages(self) -> dict[str, float]:
        """Share of each stage in the work of loading, the largest first."""
        work = Counter({name: seconds for name, seconds in self.seconds.items() if name != WAIT})
        return {name: seconds / work.total() for name, seconds in work.most_common() if seconds > 0}


@dataclass(frozen=True)
class Machine:
    """What loads the data: workers of each training process, training processes and CPU cores of this machine."""

    num_workers: int
    processes: int
    cores: int


def advice(loading: Loading, machine: Machine, sample_rate: int) -> str:
    """One sentence: how much of the time training waited for data, and what to do about it.

    'waited for data 35 % of the time; opening and decoding takes 60 % of loading: raise model.train_ds.num_workers
    (now 0; 16 CPU cores here)'. Padding costs time whether or not training waits, so much of it is named too.
    """
    sentence = f"waited for data {percent(loading.wait_share)} of the time"
    if loading.wait_share < HARDLY_WAITS:
        sentence += ": loading doesn't slow this run"
    else:
        stage, share = next(iter(loading.stages.items()), ("", 0.0))
        if share >= IS_DOMINANT:
            sentence += f"; {NAMES.get(stage, stage)} takes {percent(share)} of loading"
        sentence += f": {remedy(stage if share >= IS_DOMINANT else '', machine, sample_rate)}"
    if loading.padding_share >= WASTES_PADDING:
        sentence += f"; {percent(loading.padding_share)} of the batches is padding: {LESS_PADDING}"
    return sentence


def remedy(stage: str, machine: Machine, sample_rate: int) -> str:
    """More workers while there are cores for them, then whatever makes the dominant stage ('' for none) cheaper."""
    more_workers = (
        f"raise model.train_ds.num_workers (now {machine.num_workers}; {machine.cores} CPU "
        f"{'core' if machine.cores == 1 else 'cores'} here"
        + (f" for {machine.processes} training processes)" if machine.processes > 1 else ")")
    )
    cheaper = REMEDIES.get(stage, "take a machine with more CPU cores, or store the audio on a faster disk")
    cheaper = cheaper.format(sample_rate=sample_rate)
    has_idle_cores = machine.num_workers * machine.processes < machine.cores
    if not has_idle_cores:
        return cheaper
    return f"{cheaper}, or {more_workers}" if stage in CHEAPER_FILES else more_workers


def percent(share: float) -> str:
    """'0.3 %', '35 %'"""
    return f"{share:.1%}".replace("%", " %") if 0 < share < 0.01 else f"{share:.0%}".replace("%", " %")


class DataReport(Callback):
    """Logs what loading takes, each `trainer.log_every_n_steps` steps for these, and ends training with advice.

    Batches have `audio` (B, N), `audio_len` (B,) and `seconds`, by stage and with `wait` (see utils/stopwatch.py);
    other batches aren't looked at. The model has `cfg.sample_rate`. Logs `data/wait_share`, `data/<stage>_seconds` per
    batch, `data/padding_share` and `data/audio_seconds_per_second`: the first rank's, the last one times the ranks.
    They go to the loggers directly: `LightningModule.log` takes about a millisecond for each.
    The advice leaves out the first batch, for which workers start and files are cold.

    run: what the batches since then took.
    """

    def __init__(self):
        self.run, self._interval = Loading(), Loading()
        self._is_first = True
        self._logged_at = 0  # step
        self._since = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.run, self._interval = Loading(), Loading()
        self._is_first = True
        self._logged_at = trainer.global_step
        self._since = time.monotonic()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if not hasattr(batch, "seconds"):
            return
        self._interval.add(batch)
        step = trainer.global_step
        if trainer.log_every_n_steps and step != self._logged_at and step % trainer.log_every_n_steps == 0:
            numbers = measured(self._close_interval(), pl_module.cfg.sample_rate, trainer.world_size)
            for run_logger in trainer.loggers:
                run_logger.log_metrics(numbers, step=step - 1)  # as Lightning counts
            self._logged_at = step
        if self._is_first:
            self._close_interval()
            self.run, self._is_first = Loading(), False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read_clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close_interval()
        self._advise(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, (KeyboardInterrupt, SIGTERMException)):
            self._close_interval()
            self._advise(trainer, pl_module)

    def _read_clock(self) -> None:
        now = time.monotonic()
        self._interval.wall_seconds += now - self._since
        self._since = now

    def _close_interval(self) -> Loading:
        """What was loaded since the last call; the run has it too."""
        self._read_clock()
        closed, self._interval = self._interval, Loading()
        self.run += closed
        return closed

    def _advise(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if WAIT in self.run.seconds:
            workers = max(from_loaders(trainer.train_dataloader, "num_workers"), default=0)
            machine = Machine(workers, trainer.num_devices, usable_cores())
            logger.info(advice(self.run, machine, pl_module.cfg.sample_rate))


def measured(loading: Loading, sample_rate: int, world_size: int) -> dict[str, float]:
    """What is logged of the batches of an interval."""
    speech_seconds = float(loading.speech_samples) / sample_rate * world_size
    numbers = {
        "data/wait_share": loading.wait_share,
        "data/padding_share": loading.padding_share,
        "data/audio_seconds_per_second": speech_seconds / max(loading.wall_seconds, 1e-9),
    }
    return numbers | {f"data/{stage}_seconds": spent / loading.batches for stage, spent in loading.seconds.items()}
