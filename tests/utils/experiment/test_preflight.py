import errno
import functools
import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from tests.utils.tiny_run import TinyModel
from utils.checkpoint_files.checkpoint_file import load_checkpoint
from utils.errors import one_line_errors
from utils.exp_manager import exp_manager
from utils.experiment import preflight
from utils.experiment.exp_config import CallbackParams, ExpManagerConfig
from utils.experiment.preflight import (
    Preflight,
    check_loggers,
    check_monitors,
    check_writable,
    checkpoint_bytes,
    tensor_bytes,
)
from utils.training.checkpoints import Checkpoints
from utils.training.ema import EMA

QUIET = {"name": "exp", "create_tensorboard_logger": False, "log_step_timing": False}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def new_trainer(**options) -> Trainer:
    defaults = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "max_steps": 4}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(**defaults | quiet | options)


class CountsSteps(Callback):
    def __init__(self):
        self.steps = 0

    def on_train_batch_start(self, *_) -> None:
        self.steps += 1


def steps_of(options: dict, model: TinyModel | None = None) -> int:
    """Steps begun by a run that is stopped by an error of the user's."""
    count = CountsSteps()
    trainer = new_trainer(callbacks=[count])
    with pytest.raises((ValueError, OSError)) as stopped:
        exp_manager(trainer, {**QUIET, **options})
        trainer.fit(model or TinyModel())
    assert "\n" not in str(stopped.value) and "exp_manager." in str(stopped.value)
    return count.steps


# loggers


@pytest.mark.parametrize("option", preflight.PACKAGES)
def test_a_logger_without_its_package_is_refused_before_anything_is_made(option, monkeypatch):
    package = preflight.PACKAGES[option]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else "spec")
    with pytest.raises(ValueError, match=rf"exp_manager\.{option}=true needs the package {package}: pip install"):
        exp_manager(new_trainer(), {**QUIET, option: True})
    assert not list(Path.cwd().iterdir())


def wandb_options(**given) -> ExpManagerConfig:
    return ExpManagerConfig(create_wandb_logger=True, wandb_logger_kwargs=given)


def test_wandb_without_a_login_is_refused_without_asking_anyone(wandb):
    with pytest.raises(ValueError, match=r"create_wandb_logger=true: .*wandb login.*WANDB_API_KEY.*WANDB_MODE=offline"):
        check_loggers(wandb_options(project="p"))
    assert wandb.asked == [(False, False)]  # neither the network nor the terminal


def test_wandb_with_a_login_is_fine(wandb):
    wandb.answers = True
    check_loggers(wandb_options())


def test_a_wandb_whose_login_is_decorated_is_not_let_ask(wandb):
    login = wandb.login
    wandb.login = functools.wraps(login)(lambda *args, **kwargs: login(*args, **kwargs))
    with pytest.raises(ValueError, match="wandb login"):
        check_loggers(wandb_options())
    assert wandb.asked == [(False, False)]


@pytest.mark.parametrize("given", [{"offline": True}, {"mode": "offline"}, {"mode": "disabled"}, {"anonymous": "must"}])
def test_wandb_that_stays_here_needs_no_login(wandb, given):
    check_loggers(wandb_options(**given))


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_wandb_modes_of_the_environment_count(wandb, mode):
    wandb.mode = mode
    check_loggers(wandb_options())


@pytest.mark.parametrize("key", [None, "k"])
def test_an_older_wandb_is_asked_for_its_key(wandb, key):
    def login(key=None):
        raise AssertionError("it would ask on the terminal")

    wandb.login, wandb.api = login, SimpleNamespace(api_key=key)
    if key:
        check_loggers(wandb_options())
    else:
        with pytest.raises(ValueError, match="wandb login"):
            check_loggers(wandb_options())


# folders


@pytest.mark.parametrize("option", ["exp_dir", "explicit_log_dir"])
@pytest.mark.parametrize("below", ["", "/below"])
def test_a_folder_that_is_a_file_is_refused(option, below):
    Path("taken").touch()
    with pytest.raises(OSError, match=rf"exp_manager\.{option}: can't write to .*: .*taken is a file; name another"):
        exp_manager(new_trainer(), {**QUIET, option: f"taken{below}"})


def test_a_folder_for_checkpoints_that_is_a_file_is_refused():
    Path("taken").touch()
    with pytest.raises(OSError, match=r"exp_manager\.checkpoint_callback_params\.dirpath: .*taken is a file"):
        exp_manager(new_trainer(), {**QUIET, "checkpoint_callback_params": {"dirpath": "taken"}})


@pytest.mark.parametrize("where", ["mkdir", "write"])
def test_a_folder_without_the_right_to_write_is_refused(where, monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", "x")

    owner, name = {"mkdir": (Path, "mkdir"), "write": (preflight.tempfile, "TemporaryFile")}[where]
    monkeypatch.setattr(owner, name, refuse)
    with pytest.raises(OSError, match=r"^exp_manager\.exp_dir: can't write to .*: Permission denied; name another"):
        check_writable(tmp_path / "new", "exp_dir")


def test_nothing_stays_behind_in_a_folder_that_was_tried(tmp_path):
    check_writable(tmp_path / "a" / "b", "exp_dir")
    assert not list((tmp_path / "a" / "b").iterdir())


# room


def with_free(monkeypatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


def test_a_disk_without_room_for_two_checkpoints_stops_before_the_first_step(monkeypatch):
    with_free(monkeypatch, 100)
    assert steps_of({}) == 0


def test_the_error_names_sizes_and_remedy(monkeypatch, tmp_path):
    with_free(monkeypatch, 0)
    trainer, model = new_trainer(), TinyModel()
    exp_manager(trainer, QUIET)
    with pytest.raises(OSError, match=r"exp_manager\.checkpoint_callback_params: a checkpoint takes about .* GB, and "):
        trainer.fit(model)


def test_a_disk_too_small_for_save_top_k_is_warned_of(monkeypatch, log):
    with_free(monkeypatch, 1000)  # bytes; a checkpoint is counted as some 200
    trainer = new_trainer()
    exp_manager(trainer, {**QUIET, "checkpoint_callback_params": {"save_top_k": 50}})
    trainer.fit(TinyModel())
    assert "less than the 52 of them that save_top_k=50 and save_last ask for" in log.text
    assert trainer.global_step == 4


def test_checkpoints_that_are_there_leave_room_when_they_go(monkeypatch):
    (Path.cwd() / "c").mkdir()
    (Path.cwd() / "c" / "old.ckpt").write_bytes(bytes(10_000))
    with_free(monkeypatch, 10)
    trainer = new_trainer()
    exp_manager(trainer, {**QUIET, "checkpoint_callback_params": {"dirpath": "c"}})
    trainer.fit(TinyModel())
    assert trainer.global_step == 4


def test_the_estimate_is_near_the_true_size():
    class Wide(TinyModel):
        def __init__(self):
            super().__init__()
            self.wide = torch.nn.Linear(1000, 1000)

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) + self.wide.weight.sum() * 0.0

    sizes = []

    class Measure(Callback):
        def on_train_start(self, trainer, pl_module) -> None:
            sizes.append(checkpoint_bytes(trainer, pl_module, CallbackParams()))

    for ema in (False, True):
        trainer = new_trainer(callbacks=[EMA(0.9), Measure()] if ema else [Measure()])
        trainer.fit(Wide())
        trainer.save_checkpoint(f"{ema}.ckpt")
        assert Path(f"{ema}.ckpt").stat().st_size == pytest.approx(sizes[-1], rel=0.05)


def test_bytes_are_those_of_all_tensors_inside():
    held = {"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.int8), (torch.zeros(1).double(), "x")]}
    assert tensor_bytes(held) == 3 * 4 + 2 * 1 + 1 * 8


# monitors


class Declares(TinyModel):
    def metric_names(self) -> set[str]:
        return {"train_loss", "train_accuracy", "val_loss", "val_accuracy"}


@pytest.mark.parametrize(
    ("section", "options"),
    [
        ("checkpoint_callback_params", {}),
        ("early_stopping_callback_params", {"create_early_stopping_callback": True}),
    ],
)
def test_a_monitor_that_nothing_logs_stops_before_the_first_step(section, options):
    assert steps_of({**options, section: {"monitor": "val_los"}}, Declares()) == 0


def test_the_nearest_metric_is_named():
    callback = Checkpoints(monitor="val_los")
    with pytest.raises(ValueError, match=r"checkpoint_callback_params\.monitor=val_los: .*did you mean 'val_loss'"):
        check_monitors([callback], {"val_loss", "train_loss"})


@pytest.mark.parametrize("monitor", ["val_loss", "train_accuracy", None])
def test_a_monitor_that_is_logged_is_fine(monitor):
    trainer = new_trainer()
    params = {"monitor": monitor, "save_top_k": 1}
    exp_manager(trainer, {**QUIET, "checkpoint_callback_params": params})
    trainer.fit(Declares())
    assert trainer.global_step == 4


class LogsAtEpochEnd(Callback):
    metric_names = ("of_mine",)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        pl_module.log("of_mine", 1.0)


@pytest.mark.parametrize("monitor", ["train_rejected_samples", "train_skipped_steps", "of_mine"])
def test_what_a_callback_logs_can_be_monitored(monitor):
    trainer = new_trainer(callbacks=[LogsAtEpochEnd()])
    params = {"monitor": monitor, "save_on_train_epoch_end": True}
    folder = exp_manager(trainer, {**QUIET, "checkpoint_callback_params": params})
    trainer.fit(Declares())
    assert list((folder / "checkpoints").glob(f"*{monitor}=*"))


def test_of_a_model_that_does_not_say_what_it_logs_nothing_is_refused():
    check_monitors([Checkpoints(monitor="mine")], set())


# when to save


@pytest.mark.parametrize(
    "params",
    [
        {"every_n_train_steps": 5, "train_time_interval": {"hours": 1}},
        {"every_n_train_steps": 5, "every_n_epochs": 2},
        {"train_time_interval": {"hours": 1}, "every_n_epochs": 2},
    ],
)
def test_two_ways_to_say_when_to_save_are_refused(params):
    with pytest.raises(ValueError, match=rf"checkpoint_callback_params: {' and '.join(params)} are set.*to null"):
        exp_manager(new_trainer(), {**QUIET, "checkpoint_callback_params": params})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("checkpoint_callback_params", {"mode": "lowest"}),
        ("checkpoint_callback_params", {"save_top_k": -2}),
        ("checkpoint_callback_params", {"every_n_train_steps": -1}),
        ("checkpoint_callback_params", {"monitor": None, "save_top_k": 3}),
        ("checkpoint_callback_params", {"train_time_interval": {"hours": "one"}}),
        ("early_stopping_callback_params", {"mode": "lowest"}),
        ("max_time_per_run", "an hour"),
    ],
)
def test_what_lightning_would_refuse_is_refused_with_its_key(option, value):
    options = {"create_early_stopping_callback": True, option: value}
    with pytest.raises(ValueError, match=rf"exp_manager\.{option}") as refused:
        exp_manager(new_trainer(), {**QUIET, **options})
    assert "\n" not in str(refused.value)


def test_preflight_comes_before_the_first_step_of_every_run_with_checkpoints():
    trainer = new_trainer()
    exp_manager(trainer, QUIET)
    assert any(isinstance(callback, Preflight) for callback in trainer.callbacks)


# room that runs out later


@pytest.mark.parametrize("where", ["disk", "torch"])
def test_a_disk_that_fills_up_later_ends_the_run_in_one_line_and_spares_the_checkpoint_before(
    where, monkeypatch, capsys
):
    saves, save = [], torch.save

    def full(content, file, *args, **kwargs):
        saves.append(1)
        if len(saves) < 2:
            return save(content, file, *args, **kwargs)
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            if where == "disk":
                raise
            raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904  (torch's, of its own writer)

    monkeypatch.setattr(torch, "save", full)
    trainer = new_trainer()
    params = {"save_top_k": -1, "every_n_train_steps": 1, "monitor": None, "filename": "{step}"}
    folder = exp_manager(trainer, {**QUIET, "checkpoint_callback_params": params})
    with pytest.raises(SystemExit), one_line_errors():
        trainer.fit(TinyModel())
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "No space left on device" in line and "untouched" in line
    (kept,) = (folder / "checkpoints").iterdir()
    assert kept.name == "step=1.ckpt" and load_checkpoint(kept)["global_step"] == 1
    assert "No space left on device" in (folder / "log.txt").read_text(encoding="utf-8")
