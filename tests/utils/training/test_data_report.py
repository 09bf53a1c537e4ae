import logging
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.utils.data import DataLoader

from tests.utils.tiny_run import TinyModel
from utils.training import data_report
from utils.training.data_report import NAMES, REMEDIES, DataReport, Loading, Machine, advice, percent

RATE = 16000


def loading(wait: float, padding: float = 0.0, **stages: float) -> Loading:
    """100 s of training with so many seconds of each stage, and a share of padding."""
    return Loading(100.0, 50, Counter(wait=wait, **stages), int(1000 * (1 - padding)), 1000)


CASES = {
    "no waiting": (
        loading(0.3, decode=50.0),
        Machine(0, 1, 16),
        "waited for data 0.3 % of the time: loading doesn't slow this run",
    ),
    "no workers": (
        loading(35, decode=60, mix=40),
        Machine(0, 1, 16),
        "waited for data 35 % of the time; opening and decoding takes 60 % of loading: "
        "raise model.train_ds.num_workers (now 0; 16 CPU cores here)",
    ),
    "one core": (
        loading(35, mix=40),
        Machine(0, 1, 1),
        "waited for data 35 % of the time; mixing takes 100 % of loading: "
        "raise model.train_ds.num_workers (now 0; 1 CPU core here)",
    ),
    "cores left": (
        loading(20, decode=60, mix=40),
        Machine(4, 1, 16),
        "waited for data 20 % of the time; opening and decoding takes 60 % of loading: "
        "raise model.train_ds.num_workers (now 4; 16 CPU cores here)",
    ),
    "cores of several processes": (
        loading(20, noise=60, mix=40),
        Machine(1, 4, 16),
        "waited for data 20 % of the time; reading noise takes 60 % of loading: "
        "raise model.train_ds.num_workers (now 1; 16 CPU cores here for 4 training processes)",
    ),
    "no stage dominates": (
        loading(20, decode=30, noise=30, mix=30),
        Machine(2, 1, 16),
        "waited for data 20 % of the time: raise model.train_ds.num_workers (now 2; 16 CPU cores here)",
    ),
    "nothing left to raise": (
        loading(20, decode=30, noise=30, mix=30),
        Machine(4, 4, 16),
        "waited for data 20 % of the time: take a machine with more CPU cores, or store the audio on a faster disk",
    ),
    "resampling, cores left": (
        loading(20, resample=60, mix=40),
        Machine(2, 1, 16),
        "waited for data 20 % of the time; resampling takes 60 % of loading: store the audio at 16000 Hz, the model's "
        "rate, or raise model.train_ds.num_workers (now 2; 16 CPU cores here)",
    ),
    "resampling": (
        loading(20, resample=60, mix=40),
        Machine(16, 1, 16),
        "waited for data 20 % of the time; resampling takes 60 % of loading: "
        "store the audio at 16000 Hz, the model's rate",
    ),
    "decoding": (
        loading(20, decode=60, mix=40),
        Machine(16, 1, 16),
        "waited for data 20 % of the time; opening and decoding takes 60 % of loading: "
        "store the audio as WAV or FLAC on a local disk",
    ),
    "noise": (
        loading(20, noise=60, mix=40),
        Machine(16, 1, 16),
        "waited for data 20 % of the time; reading noise takes 60 % of loading: "
        "store the noise as WAV at 16000 Hz, the model's rate",
    ),
    "mixing": (
        loading(20, mix=60, decode=40),
        Machine(16, 1, 16),
        "waited for data 20 % of the time; mixing takes 60 % of loading: "
        "lower max_num_segments or max_num_speakers of model.train_ds.batch_augmentor",
    ),
    "rooms": (
        loading(20, room=60, decode=40),
        Machine(16, 1, 16),
        "waited for data 20 % of the time; putting it into rooms takes 60 % of loading: "
        "lower model.train_ds.rir_prob, or shorten the impulse responses",
    ),
    "collate": (
        loading(20, collate=60, decode=40),
        Machine(16, 1, 16),
        "waited for data 20 % of the time; padding into batches takes 60 % of loading: "
        "batch utterances of similar length (model.train_ds.batch_duration with batch_size=null, or more num_buckets)",
    ),
    "a stage without a name": (
        loading(20, shards=60),
        Machine(0, 1, 2),
        "waited for data 20 % of the time; shards takes 100 % of loading: "
        "raise model.train_ds.num_workers (now 0; 2 CPU cores here)",
    ),
    "no stages at all": (
        loading(20),
        Machine(0, 1, 2),
        "waited for data 20 % of the time: raise model.train_ds.num_workers (now 0; 2 CPU cores here)",
    ),
    "padding": (
        loading(0, padding=0.31, decode=1),
        Machine(0, 1, 2),
        "waited for data 0 % of the time: loading doesn't slow this run; 31 % of the batches is padding: "
        "batch utterances of similar length (model.train_ds.batch_duration with batch_size=null, or more num_buckets)",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_advice_names_what_bounds_the_run(case):
    totals, machine, expected = CASES[case]
    assert advice(totals, machine, RATE) == expected


def test_each_stage_with_a_name_has_a_remedy_of_its_own():
    assert NAMES.keys() == REMEDIES.keys() and len(set(REMEDIES.values())) == len(REMEDIES)


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (0.003, "0.3 %"), (0.0099, "1.0 %"), (0.01, "1 %"), (0.354, "35 %"), (1, "100 %")]
)
def test_percent(share, text):
    assert percent(share) == text


def test_shares_stay_shares():
    assert loading(wait=120).wait_share == 1.0
    assert Loading().wait_share == Loading().padding_share == 0.0 and Loading().stages == {}


# in a run


@dataclass
class TimedBatch:
    """Two items, one of them half as long as the other, and the seconds they took."""

    audio: Tensor = field(default_factory=lambda: torch.randn(2, RATE))
    audio_len: Tensor = field(default_factory=lambda: torch.tensor([RATE, RATE // 2]))
    seconds: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return 2


class Clock:
    now = 0.0


class Model(TinyModel):
    """Each batch took 2 s to wait for, 3 s to decode and 1 s to mix; the first took 1000. A step takes 5 s."""

    clock = Clock()

    def __init__(self, batches: int = 7, validate: bool = False, stop_with: type | None = None, **seconds):
        super().__init__(batches=batches, validate=validate)
        self.stop_at, self.stop_with = 4 if stop_with else None, stop_with
        self.seconds = seconds or {"wait": 2.0, "decode": 3.0, "mix": 1.0}

    def training_step(self, batch, batch_idx):
        if batch_idx == self.stop_at:
            raise self.stop_with
        self.clock.now += 5.0
        return self.out(batch.audio[:, :3]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.clock.now += 100.0

    def _loader(self, count):
        items = [TimedBatch(seconds=dict(self.seconds)) for _ in range(count)]
        if "wait" in self.seconds:
            items[0].seconds["wait"] = 1000.0
        return DataLoader(items, batch_size=None)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """Stands still but for steps."""
    clock = Clock()
    monkeypatch.setattr(data_report, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(Model, "clock", clock)
    return clock


def fit(model: TinyModel, **options) -> DataReport:
    report = DataReport()
    defaults = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "max_epochs": 1}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    Trainer(callbacks=[report], **defaults | quiet | {"log_every_n_steps": 2} | options).fit(model)
    return report


class Kept(Logger):
    """Keeps what it is given: (step, numbers)."""

    name = version = "kept"

    def __init__(self):
        super().__init__()
        self.logged: list[tuple[int, dict]] = []

    def log_metrics(self, metrics, step=None):
        if any(name.startswith("data/") for name in metrics):
            self.logged.append((step, metrics))

    def log_hyperparams(self, *args):
        pass


def test_numbers_are_those_of_the_interval(clock):
    kept = Kept()
    fit(Model(), logger=kept)
    assert [step for step, _ in kept.logged] == [1, 3, 5]
    assert kept.logged[1][1] == {
        "data/wait_share": pytest.approx(4 / 10),
        "data/padding_share": pytest.approx(1 / 4),
        "data/audio_seconds_per_second": pytest.approx(3 / 10),
        "data/wait_seconds": pytest.approx(2),
        "data/decode_seconds": pytest.approx(3),
        "data/mix_seconds": pytest.approx(1),
    }


def test_numbers_stand_at_the_step_of_the_others(monkeypatch):
    steps = {}

    class Loud(Model):
        def training_step(self, batch, batch_idx):
            self.log("loud", 1.0)
            return super().training_step(batch, batch_idx)

    monkeypatch.setattr(
        Kept, "log_metrics", lambda self, metrics, step=None: steps.update(dict.fromkeys(metrics, step))
    )
    fit(Loud(batches=2), logger=Kept())
    assert steps["loud"] == steps["data/wait_share"] == 1


def test_each_step_is_logged_once_when_gradients_accumulate(clock):
    kept = Kept()
    fit(Model(batches=8), accumulate_grad_batches=2, logger=kept)
    assert [step for step, _ in kept.logged] == [1, 3]


def test_the_run_is_summed_up_without_its_first_batch(clock, caplog):
    caplog.set_level(logging.INFO, logger="nest_ssl")
    report = fit(Model(batches=7))
    assert report.run.batches == 6 and report.run.seconds == {"wait": 12.0, "decode": 18.0, "mix": 6.0}
    (sentence,) = [text for text in caplog.messages if text.startswith("waited for data")]
    assert "opening and decoding takes 75 % of loading: raise model.train_ds.num_workers (now 0; " in sentence


def test_validation_is_no_time_of_training_but_what_comes_before_it_is(clock):
    class Saving(Model):
        def on_train_batch_end(self, *args):
            clock.now += 1.0

    report = fit(Saving(batches=4, validate=True), val_check_interval=2)
    assert report.run.wall_seconds == 3 * 5.0 + 4 * 1.0 and clock.now == 4 * 6.0 + 4 * 100.0


def test_ctrl_c_ends_with_advice_and_an_error_doesnt(caplog):
    caplog.set_level(logging.INFO, logger="nest_ssl")
    with pytest.raises(SystemExit):
        fit(Model(stop_with=KeyboardInterrupt))
    assert "waited for data" in caplog.text
    caplog.clear()
    with pytest.raises(RuntimeError):
        fit(Model(stop_with=RuntimeError))
    assert "waited for data" not in caplog.text


@pytest.mark.parametrize("model", [TinyModel(validate=False), Model(decode=1.0)], ids=["no seconds", "no wait"])
def test_without_measured_waiting_nothing_is_claimed(caplog, model):
    caplog.set_level(logging.INFO, logger="nest_ssl")
    fit(model)
    assert "waited for data" not in caplog.text


def test_numbers_can_be_switched_off_with_the_trainers_logging():
    kept = Kept()
    fit(Model(), log_every_n_steps=0, logger=kept)
    assert kept.logged == []
