"""Every option of exp_manager that isn't refused changes something: where the run writes, its loggers or callbacks."""

import os
import re
import shutil
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from omegaconf import OmegaConf

from tests.utils.tiny_run import TinyModel
from utils.exp_manager import exp_manager
from utils.experiment.exp_config import ExpManagerConfig
from utils.experiment.preflight import Preflight
from utils.experiment.run_folder import VERSION_VARIABLE

STOPPING = {"create_early_stopping_callback": True}
MLFLOW = {"create_mlflow_logger": True}
WANDB = {"create_wandb_logger": True, "wandb_logger_kwargs": {"offline": True}}
GOES_ON = {"exp_dir": "earlier", "resume_if_exists": True}
OTHER: dict[str, tuple[object, dict]] = {  # option: another value than the default, and what it needs to matter
    "explicit_log_dir": ("here", {}),
    "exp_dir": ("out", {}),
    "name": ("other", {}),
    "version": ("a", {}),
    "use_datetime_version": (False, {}),
    "resume_if_exists": (True, {"exp_dir": "earlier"}),
    "resume_past_end": (True, {**GOES_ON, "name": "ended"}),
    "resume_ignore_no_checkpoint": (True, {"resume_if_exists": True}),
    "resume_from_checkpoint": ("one.ckpt", {}),
    "create_tensorboard_logger": (False, {}),
    "summary_writer_kwargs": ({"flush_secs": 7}, {}),
    "create_wandb_logger": (True, {"wandb_logger_kwargs": {"offline": True}}),
    "wandb_logger_kwargs": ({"offline": True, "project": "p"}, WANDB),
    "create_mlflow_logger": (True, {}),
    "mlflow_logger_kwargs.experiment_name": ("e", MLFLOW),
    "mlflow_logger_kwargs.run_name": ("r", MLFLOW),
    "mlflow_logger_kwargs.tracking_uri": ("http://localhost:1", MLFLOW),
    "mlflow_logger_kwargs.tags": ({"a": "b"}, MLFLOW),
    "mlflow_logger_kwargs.save_dir": ("there", MLFLOW),
    "mlflow_logger_kwargs.prefix": ("p", MLFLOW),
    "mlflow_logger_kwargs.artifact_location": ("there", MLFLOW),
    "mlflow_logger_kwargs.run_id": ("0123", MLFLOW),
    "mlflow_logger_kwargs.log_model": (True, MLFLOW),
    "create_csv_logger": (True, {}),
    "create_checkpoint_callback": (False, {}),
    "checkpoint_callback_params.dirpath": ("there", {}),
    "checkpoint_callback_params.filename": ("{step}", {}),
    "checkpoint_callback_params.monitor": ("train_loss", {}),
    "checkpoint_callback_params.verbose": (False, {}),
    "checkpoint_callback_params.save_last": (False, {}),
    "checkpoint_callback_params.save_top_k": (5, {}),
    "checkpoint_callback_params.save_weights_only": (True, {}),
    "checkpoint_callback_params.mode": ("max", {}),
    "checkpoint_callback_params.auto_insert_metric_name": (False, {}),
    "checkpoint_callback_params.every_n_epochs": (2, {}),
    "checkpoint_callback_params.every_n_train_steps": (5, {}),
    "checkpoint_callback_params.train_time_interval": ({"minutes": 5}, {}),
    "checkpoint_callback_params.prefix": ("p", {}),
    "checkpoint_callback_params.postfix": ("-p.nemo", {}),
    "checkpoint_callback_params.save_best_model": (True, {}),
    "checkpoint_callback_params.always_save_nemo": (True, {}),
    "checkpoint_callback_params.save_nemo_on_train_end": (False, {}),
    "checkpoint_callback_params.save_on_train_epoch_end": (True, {}),
    "create_early_stopping_callback": (True, {}),
    "early_stopping_callback_params.monitor": ("train_loss", STOPPING),
    "early_stopping_callback_params.mode": ("max", STOPPING),
    "early_stopping_callback_params.min_delta": (0.5, STOPPING),
    "early_stopping_callback_params.patience": (3, STOPPING),
    "early_stopping_callback_params.verbose": (False, STOPPING),
    "early_stopping_callback_params.strict": (False, STOPPING),
    "early_stopping_callback_params.check_finite": (False, STOPPING),
    "early_stopping_callback_params.stopping_threshold": (0.5, STOPPING),
    "early_stopping_callback_params.divergence_threshold": (0.5, STOPPING),
    "early_stopping_callback_params.check_on_train_epoch_end": (True, STOPPING),
    "early_stopping_callback_params.log_rank_zero_only": (True, STOPPING),
    "create_preemption_callback": (False, {}),
    "files_to_copy": (["notes.md"], {}),
    "log_step_timing": (False, {}),
    "step_timing_kwargs.reduction": ("max", {}),
    "step_timing_kwargs.sync_cuda": (True, {}),
    "step_timing_kwargs.buffer_size": (3, {}),
    "ema.enable": (True, {}),
    "ema.decay": (0.5, {"ema": {"enable": True}}),
    "ema.cpu_offload": (True, {"ema": {"enable": True}}),
    "ema.validate_original_weights": (True, {"ema": {"enable": True}}),
    "ema.every_n_steps": (3, {"ema": {"enable": True}}),
    "max_time_per_run": ("00:01:00:00", {}),
    "max_skipped_steps_in_a_row": (3, {}),
}


def option_paths(tree: dict, path: str = "") -> set[str]:
    paths = set()
    for key, value in tree.items():
        paths |= option_paths(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}"}
    return paths


def test_the_table_names_every_option():
    assert OTHER.keys() == option_paths(OmegaConf.to_container(OmegaConf.structured(ExpManagerConfig)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("earlier") / "x.ckpt"
    trainer = new_trainer(max_steps=1)
    trainer.fit(TinyModel())
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VERSION_VARIABLE, "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


def enter_workplace(folder: Path, checkpoint: Path) -> None:
    """A working directory with an earlier run that was cut off, one that has ended, and a file."""
    for place in ("earlier/default/checkpoints/x-last.ckpt", "earlier/ended/checkpoints/x-end.ckpt", "one.ckpt"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(checkpoint, folder / place)
    (folder / "notes.md").touch()
    os.chdir(folder)


def new_trainer(**options) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", devices=1, **quiet, **options)


def what_a_run_gets(options: dict, workplace: Path, checkpoint: Path) -> str:
    """Its folder, files, loggers and callbacks with all they hold, in words; or the error."""
    enter_workplace(workplace, checkpoint)
    trainer = new_trainer()
    try:
        folder = exp_manager(trainer, options)
        text = "\n".join([str(folder), *sorted(path.name for path in folder.iterdir()), str(trainer.ckpt_path)])
    except (ValueError, OSError) as error:
        text = str(error)
    for part in [*trainer.loggers, *trainer.callbacks]:
        if not isinstance(part, Preflight):  # it holds all that checkpoints were asked for, heeded or not
            text += f"\n{type(part).__name__} {sorted(in_words(part).items())}"
    passing = rf"{re.escape(str(workplace))}|0x\w+|\d{{4}}-\d\d-\d\d_\d\d-\d\d-\d\d"  # addresses, dates
    return re.sub(passing, "", text)


def in_words(part: object) -> dict[str, str]:
    return {name: str(vars(value) if hasattr(value, "__dict__") else value) for name, value in vars(part).items()}


@pytest.mark.parametrize("option", OTHER)
def test_another_value_has_an_effect(option, tmp_path, checkpoint, wandb):
    if "mlflow" in option:
        pytest.importorskip("mlflow")
    value, needed = OTHER[option]
    changed = OmegaConf.create(needed)
    OmegaConf.update(changed, option, value, merge=False, force_add=True)
    before, again, after = (
        what_a_run_gets(options, tmp_path / place, checkpoint)
        for place, options in (("a", needed), ("b", needed), ("c", OmegaConf.to_container(changed)))
    )
    assert before == again  # so that a difference is the option's
    assert after != before
