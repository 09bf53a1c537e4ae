import errno
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import OmegaConf

from tests.utils.tiny_run import TinyModel
from utils.errors import users_mistake
from utils.exp_manager import exp_manager, keep_config
from utils.experiment.run_folder import VERSION_VARIABLE
from utils.training.callbacks import RunTimer, StepTimer
from utils.training.checkpoints import Checkpoints
from utils.training.data_report import DataReport
from utils.training.rejects import Rejects


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VERSION_VARIABLE, raising=False)
    monkeypatch.setenv(VERSION_VARIABLE, "")  # so that what a test sets is undone


def new_trainer(**options) -> Trainer:
    defaults = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "max_steps": 4}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(**defaults | quiet | options)


def run(options: dict | None = None, has_validation: bool = True, **trainer_options) -> tuple[Path, Trainer]:
    trainer = new_trainer(**trainer_options)
    options = {"name": "exp", "create_tensorboard_logger": False, "log_step_timing": False, **(options or {})}
    folder = exp_manager(trainer, OmegaConf.create(options), has_validation)
    trainer.fit(TinyModel(batches=4, validate=has_validation))
    return folder, trainer


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def callback(trainer: Trainer, kind: type):
    return next((c for c in trainer.callbacks if isinstance(c, kind)), None)


# where a run writes


def test_a_run_has_a_folder_with_checkpoints_logs_and_its_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "a=1 2"])
    folder, _ = run({"create_tensorboard_logger": True})
    assert folder.parent == Path.cwd() / "nemo_experiments" / "exp"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", folder.name)
    names = files(folder)
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert any(re.fullmatch(r"checkpoints/exp--val_loss=\d\.\d{4}-epoch=0\.ckpt", name) for name in names), names
    assert any(name.endswith("-last.ckpt") for name in names)
    assert (folder / "cmd-args.log").read_text(encoding="utf-8") == "train.py 'a=1 2'\n"


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        ({"version": "first"}, "nemo_experiments/exp/first"),
        ({"version": "first", "exp_dir": "out"}, "out/exp/first"),
        ({"use_datetime_version": False}, "nemo_experiments/exp/version_0"),
        ({"resume_if_exists": True, "resume_ignore_no_checkpoint": True}, "nemo_experiments/exp"),
        ({"explicit_log_dir": "here", "exp_dir": "unused"}, "here"),
        ({"version": "first", "name": None}, "nemo_experiments/default/first"),
    ],
)
def test_the_folder_follows_nemos_rule(options, folder):
    assert exp_manager(new_trainer(), {"name": "exp", **options}) == Path.cwd() / folder


def test_versions_count_on():
    options = {"name": "exp", "use_datetime_version": False}
    assert [exp_manager(new_trainer(), options).name for _ in range(3)] == ["version_0", "version_1", "version_2"]


def test_other_ranks_take_the_version_of_the_first(monkeypatch):
    first = exp_manager(new_trainer(), {"name": "exp", "use_datetime_version": False})
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert exp_manager(new_trainer(), {"name": "exp", "use_datetime_version": False}) == first


def test_a_run_reports_what_it_left_out_and_what_loading_took():
    _, trainer = run()
    assert callback(trainer, Rejects)._list._path.name == "rejects.jsonl" and callback(trainer, DataReport)


def test_files_to_copy_are_copied_or_missed_by_name():
    Path("notes.txt").write_text("a", encoding="utf-8")
    folder = exp_manager(new_trainer(), {"files_to_copy": ["notes.txt"]})
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "a"
    with pytest.raises(FileNotFoundError, match=r"files_to_copy: missing\.txt"):
        exp_manager(new_trainer(), {"files_to_copy": ["missing.txt"]})


def test_nothing_happens_without_a_section_or_in_a_dry_run():
    assert exp_manager(new_trainer(), None) is None
    assert exp_manager(new_trainer(fast_dev_run=True), {"name": "exp"}) is None
    assert not list(Path.cwd().iterdir())


def test_lightning_saves_into_the_folder_too_unless_the_trainer_names_another(tmp_path):
    trainer = new_trainer()
    folder = exp_manager(trainer, {"name": "exp"})
    assert Path(trainer.default_root_dir) == folder
    trainer = new_trainer(default_root_dir=tmp_path / "mine")
    exp_manager(trainer, {"name": "exp"})
    assert Path(trainer.default_root_dir) == tmp_path / "mine"


def test_the_config_is_kept_with_what_its_references_stand_for(tmp_path):
    keep_config(OmegaConf.create({"name": "mine", "exp_manager": {"name": "${name}"}}), tmp_path)
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8") == "name: mine\nexp_manager:\n  name: mine\n"


@pytest.mark.parametrize("full", ["cmd-args.log", "git-info.log", "environment.txt", "notes.md", "config.yaml"])
def test_a_full_disk_at_the_start_is_one_line(full, monkeypatch, tmp_path):
    replace = os.replace

    def no_space(source, target) -> None:
        if Path(target).name == full:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", no_space)
    (tmp_path / "notes.md").touch()
    with pytest.raises(OSError, match=rf"{full} can't be written: No space left on device") as stopped:
        keep_config(OmegaConf.create({}), exp_manager(new_trainer(), {"name": "exp", "files_to_copy": ["notes.md"]}))
    assert users_mistake(stopped.value)


# checkpoints


def test_the_best_checkpoints_by_the_monitor_are_kept():
    params = {"save_top_k": 2, "save_last": False, "filename": "m-{val_loss:.3f}-{step}", "mode": "min"}
    folder, trainer = run({"checkpoint_callback_params": params}, val_check_interval=1)
    assert len(files(folder / "checkpoints")) == 2
    best = callback(trainer, Checkpoints)
    assert best.best_model_score == min(best.best_k_models.values())


def test_the_end_is_saved_even_between_validations():
    _, trainer = run(max_steps=3, val_check_interval=2)
    saved = torch.load(callback(trainer, Checkpoints).last_model_path, weights_only=True)
    assert saved["global_step"] == 3


def test_save_last_false_saves_no_end():
    folder, _ = run({"checkpoint_callback_params": {"save_last": False, "save_top_k": 0}})
    assert not files(folder / "checkpoints")


def test_without_validation_checkpoints_come_as_often_as_validation_would(tmp_path):
    trainer = new_trainer(val_check_interval=6, check_val_every_n_epoch=None, accumulate_grad_batches=3)
    exp_manager(trainer, {"name": "exp", "create_tensorboard_logger": False}, has_validation=False)
    assert callback(trainer, Checkpoints)._every_n_train_steps == 2  # Lightning's interval is in batches


def test_without_a_monitor_checkpoints_are_named_by_epoch_and_step():
    folder, _ = run({"checkpoint_callback_params": {"monitor": None, "save_top_k": 1, "save_last": False}})
    assert {name for name in files(folder / "checkpoints") if name.endswith(".ckpt")} == {"exp--epoch=0-step=4.ckpt"}


@pytest.mark.parametrize(
    ("params", "steps"),
    [({"every_n_train_steps": 2}, {2, 4}), ({"train_time_interval": {"seconds": 1e-6}}, {1, 2, 3, 4})],
)
def test_checkpoints_come_by_steps_or_time(params, steps):
    params = {"save_top_k": -1, "monitor": None, "filename": "{step}", "save_last": False, **params}
    folder, _ = run({"checkpoint_callback_params": params})
    assert {int(re.search(r"step=(\d+)", name)[1]) for name in files(folder / "checkpoints")} == steps


def test_without_validation_checkpoints_go_by_the_training_loss():
    params = {"monitor": "val_loss", "filename": "exp--{val_loss:.3f}-{step}"}
    options = {"checkpoint_callback_params": params, "create_early_stopping_callback": True}
    folder, trainer = run(options, has_validation=False, val_check_interval=2, check_val_every_n_epoch=None)
    assert callback(trainer, EarlyStopping).monitor == callback(trainer, Checkpoints).monitor == "train_loss"
    assert any(name.startswith("exp--train_loss=0.") or "train_loss=" in name for name in files(folder / "checkpoints"))


def test_dirpath_moves_the_checkpoints():
    folder, _ = run({"checkpoint_callback_params": {"dirpath": "elsewhere"}})
    assert files(Path("elsewhere")) and not (folder / "checkpoints").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to wait for")
@pytest.mark.parametrize("wanted", [True, False])
def test_sigterm_saves_if_wanted(wanted):
    class Preempted(TinyModel):
        def on_train_batch_start(self, batch, batch_idx) -> None:
            if batch_idx == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer = new_trainer()
    options = {"name": "exp", "create_tensorboard_logger": False, "create_preemption_callback": wanted}
    folder = exp_manager(trainer, options)
    with pytest.raises(SystemExit):
        trainer.fit(Preempted())
    assert bool(files(folder / "checkpoints") if (folder / "checkpoints").exists() else ()) == wanted


def test_ctrl_c_saves_where_the_run_stands():
    class Interrupted(TinyModel):
        def on_train_batch_start(self, batch, batch_idx) -> None:
            if batch_idx == 2:
                raise KeyboardInterrupt

    trainer = new_trainer()
    folder = exp_manager(trainer, {"name": "exp", "create_tensorboard_logger": False})
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        trainer.fit(Interrupted())
    assert trainer.global_step == 2
    assert any("step=2" in str(path) or "last" in str(path) for path in (folder / "checkpoints").iterdir())


# going on


RESUME = {"resume_if_exists": True, "resume_ignore_no_checkpoint": True}


def test_a_second_run_goes_on_from_the_last_checkpoint():
    folder, first = run(RESUME, max_steps=3)
    _, second = run(RESUME, max_steps=5)
    assert first.global_step == 3 and second.global_step == 5
    assert second.ckpt_path == callback(first, Checkpoints).last_model_path
    assert (folder / "run_0" / "cmd-args.log").exists() and (folder / "cmd-args.log").exists()


def test_without_a_checkpoint_the_run_starts_or_stops_as_told():
    assert run(RESUME)[1].ckpt_path is None
    with pytest.raises(FileNotFoundError, match=r"resume_if_exists: no checkpoint in .*checkpoints; set "):
        exp_manager(new_trainer(), {"name": "new", "resume_if_exists": True})


def test_a_given_checkpoint_is_where_a_new_run_starts():
    _, first = run({"version": "a"}, max_steps=2)
    path = callback(first, Checkpoints).last_model_path
    _, second = run({"version": "b", "resume_from_checkpoint": path}, max_steps=3)
    assert second.ckpt_path == path and second.global_step == 3
    with pytest.raises(FileNotFoundError, match=r"resume_from_checkpoint=nothing\.ckpt"):
        exp_manager(new_trainer(), {"resume_from_checkpoint": "nothing.ckpt"})


def test_a_run_that_has_ended_goes_on_only_when_told():
    folder, first = run(RESUME, max_steps=2)
    last = Path(callback(first, Checkpoints).last_model_path)
    last.rename(last.with_name("exp-end.ckpt"))
    with pytest.raises(ValueError, match="resume_past_end=true"):
        exp_manager(new_trainer(), {"name": "exp", **RESUME})
    again = new_trainer()
    exp_manager(again, {"name": "exp", **RESUME, "resume_past_end": True})
    assert again.ckpt_path.endswith("end.ckpt") and folder.exists()


# loggers and the other callbacks


def test_weights_and_biases_offline(monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    options = {"create_wandb_logger": True, "wandb_logger_kwargs": {"name": "my_experiment", "project": "ssl"}}
    folder, _ = run(options)
    assert any(name.endswith(".wandb") for name in files(folder))
    with pytest.raises(ValueError, match=r"wandb_logger_kwargs\.projet .* did you mean 'project'"):
        exp_manager(new_trainer(), {**options, "wandb_logger_kwargs": {"projet": "ssl"}})


@pytest.mark.parametrize("option", ["create_tensorboard_logger", "create_csv_logger"])
def test_a_logger_beside_the_trainers_own_is_refused(option):
    with pytest.raises(ValueError, match=r"set trainer\.logger=false"):
        exp_manager(new_trainer(logger=True), {"create_tensorboard_logger": False, option: True})


@pytest.mark.parametrize("option", ["logger", "enable_checkpointing"])
def test_two_masters_are_refused(option):
    with pytest.raises(ValueError, match=f"trainer.{option}"):
        exp_manager(new_trainer(**{option: True}), {"name": "exp"})


def test_early_stopping_ends_a_run_that_does_not_improve():
    options = {
        "create_early_stopping_callback": True,
        "early_stopping_callback_params": {"patience": 1, "min_delta": 10.0, "verbose": False},
    }
    assert run(options, max_steps=100, val_check_interval=2)[1].global_step == 4


def test_a_time_limit_ends_a_run():
    assert run({"max_time_per_run": "00:00:00:00"}, max_steps=10**6)[1].global_step < 10


def test_the_time_limit_is_that_of_each_run():
    timer = RunTimer("00:00:01:00")
    timer.load_state_dict({"time_elapsed": {"train": 1e9}})
    assert timer.state_dict() == {} and timer.time_remaining() == 60


@pytest.mark.parametrize("wanted", [True, False])
def test_step_timing_is_logged_if_wanted(wanted, monkeypatch):
    logged = set()
    monkeypatch.setattr(TensorBoardLogger, "log_metrics", lambda self, metrics, step: logged.update(metrics))
    run({"log_step_timing": wanted, "create_tensorboard_logger": True}, log_every_n_steps=1)
    stages = {"train_step_timing in s", "train_backward_timing in s", "validation_step_timing in s"}
    assert "train_loss" in logged and logged & stages == (stages if wanted else set())


def test_step_timing_options_reach_the_timer():
    trainer = new_trainer()
    exp_manager(trainer, {"name": "exp", "step_timing_kwargs": {"reduction": "max", "buffer_size": 3}})
    assert callback(trainer, StepTimer)._buffer_size == 3


class RunsCode:
    """What a stranger could put into a pickle."""

    def __reduce__(self):
        return Path.touch, (Path("code_ran"),)


def test_a_checkpoint_that_a_run_goes_on_from_runs_no_code():
    torch.save({"state_dict": {}, "x": RunsCode()}, "stranger.ckpt")
    with pytest.raises(ValueError, match=r"stranger\.ckpt"):
        exp_manager(new_trainer(), {"resume_from_checkpoint": "stranger.ckpt", "create_tensorboard_logger": False})
    trainer = new_trainer()
    exp_manager(trainer, {"name": "exp", "create_tensorboard_logger": False})
    with pytest.raises(ValueError, match=r"stranger\.ckpt"):
        trainer.validate(TinyModel(), ckpt_path="stranger.ckpt")
    assert not Path("code_ran").exists()
