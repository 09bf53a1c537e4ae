"""The callbacks that a run has by its `exp_manager` section."""

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from lightning.pytorch.callbacks import Callback, EarlyStopping

from utils.callbacks import LogFile, RunTimer, StepTimer
from utils.checkpoints import Checkpoints
from utils.config_check import refuse_unknown_keys
from utils.data_report import DataReport
from utils.ema import EMA
from utils.exp_config import CallbackParams, EmaParams, ExpManagerConfig
from utils.going_on import checkpoint_folder
from utils.rejects import Rejects
from utils.run_model import RunModel

LOG_FILE = "log.txt"


def build_callbacks(options: ExpManagerConfig, folder: Path) -> list[Callback]:
    callbacks: list[Callback] = [LogFile(folder / LOG_FILE), Rejects(folder), DataReport()]
    if options.log_step_timing:
        callbacks.append(StepTimer(**asdict(options.step_timing_kwargs)))
    if options.ema.enable:
        callbacks.append(build_ema(options.ema))
    if options.create_early_stopping_callback:
        callbacks.append(EarlyStopping(**asdict(options.early_stopping_callback_params)))
    if options.max_time_per_run is not None:
        callbacks.append(RunTimer(options.max_time_per_run))
    if options.create_checkpoint_callback:  # last, so that it saves the state of the others
        callbacks.append(build_checkpoints(options, folder))
    return callbacks


def build_ema(params: EmaParams) -> EMA:
    return EMA(params.decay, params.validate_original_weights, params.every_n_steps, params.cpu_offload)


def build_checkpoints(options: ExpManagerConfig, folder: Path) -> Checkpoints:
    params = options.checkpoint_callback_params
    interval = read_interval(params.train_time_interval)
    by_epochs = interval is None and params.every_n_train_steps is None  # NeMo's default of 1 must not collide
    filename = params.filename or f"{options.name or 'default'}--{{{params.monitor}:.4f}}-{{epoch}}"
    checkpoints = Checkpoints(
        dirpath=checkpoint_folder(params, folder),
        filename=filename,
        monitor=params.monitor,
        verbose=params.verbose,
        save_last=params.save_last,
        save_top_k=params.save_top_k,
        save_weights_only=params.save_weights_only,
        mode=params.mode,
        auto_insert_metric_name=params.auto_insert_metric_name,
        every_n_epochs=params.every_n_epochs if by_epochs else None,
        every_n_train_steps=params.every_n_train_steps,
        train_time_interval=interval,
        save_on_train_epoch_end=params.save_on_train_epoch_end,
    )
    checkpoints.CHECKPOINT_NAME_LAST = f"{filename}-last"  # NeMo's name
    checkpoints.save_on_sigterm = options.create_preemption_callback
    checkpoints.model = build_run_model(params, options.name or "default", checkpoint_folder(params, folder))
    return checkpoints


def build_run_model(params: CallbackParams, name: str, folder: Path) -> RunModel:
    return RunModel(
        folder / f"{params.prefix or name}{params.postfix}",
        at_checkpoints=params.always_save_nemo,
        at_end=params.save_nemo_on_train_end,
        best_only=params.save_best_model,
    )


def read_interval(value: object) -> timedelta | None:
    """NeMo's `{_target_: datetime.timedelta, hours: 1}`; the _target_ may be left out."""
    if value is None:
        return None
    path = "exp_manager.checkpoint_callback_params.train_time_interval"
    if not isinstance(value, dict) or value.get("_target_", "datetime.timedelta") != "datetime.timedelta":
        raise ValueError(f"{path}={value!r} must be a mapping of a timedelta's arguments, such as hours: 1")
    arguments = {key: amount for key, amount in value.items() if key != "_target_"}
    refuse_unknown_keys(arguments, ("days", "hours", "minutes", "seconds"), path)
    return timedelta(**arguments)
