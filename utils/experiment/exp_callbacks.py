"""The callbacks that a run has by its `exp_manager` section."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from utils.config_check import first_line, refuse_unknown_keys
from utils.experiment.exp_config import CallbackParams, EmaParams, ExpManagerConfig
from utils.experiment.going_on import checkpoint_folder
from utils.experiment.loggers import KeepLoggers
from utils.experiment.preflight import Preflight
from utils.experiment.run_model import RunModel
from utils.logging import logger
from utils.training.callbacks import EarlyStopping, RunTimer, StepTimer
from utils.training.checkpoints import Checkpoints
from utils.training.data_report import DataReport
from utils.training.ema import EMA
from utils.training.finite_steps import FiniteSteps
from utils.training.rejects import Rejects


def build_callbacks(options: ExpManagerConfig, folder: Path) -> list[Callback]:
    """All but the log file, which begins when it is made: these write nothing before training.

    Raises ValueError, in one line, for values that callbacks refuse.
    """
    callbacks: list[Callback] = [KeepLoggers(folder), Rejects(folder), DataReport()]
    callbacks.append(FiniteSteps(folder, options.max_skipped_steps_in_a_row))
    if options.log_step_timing:
        callbacks.append(StepTimer(**asdict(options.step_timing_kwargs)))
    if options.ema.enable:
        callbacks.append(build_ema(options.ema))
    if options.create_early_stopping_callback:
        with named("early_stopping_callback_params"):
            callbacks.append(EarlyStopping(**asdict(options.early_stopping_callback_params)))
    if options.max_time_per_run is not None:
        callbacks.append(RunTimer(options.max_time_per_run))
    if options.create_checkpoint_callback:  # last, so that it saves the state of the others
        callbacks.append(Preflight(options.checkpoint_callback_params))
        with named("checkpoint_callback_params"):
            callbacks.append(build_checkpoints(options, folder))
    return callbacks


@contextmanager
def named(option: str) -> Iterator[None]:
    """Lightning's own errors say nothing of the config."""
    try:
        yield
    except (MisconfigurationException, TypeError) as error:
        raise ValueError(f"exp_manager.{option}: Lightning refuses this: {first_line(error)}") from error


def build_ema(params: EmaParams) -> EMA:
    return EMA(params.decay, params.validate_original_weights, params.every_n_steps, params.cpu_offload)


def build_checkpoints(options: ExpManagerConfig, folder: Path) -> Checkpoints:
    """What saves checkpoints below `folder`, the run's, and its `.nemo` file beside them.

    Raises ValueError, in one line, for a postfix that isn't .nemo's and for several ways to say when to save.
    """
    params = options.checkpoint_callback_params
    if params.save_weights_only and options.resume_if_exists:
        logger.warning(
            "exp_manager.checkpoint_callback_params.save_weights_only=true: these checkpoints have no state of the "
            "optimizer, so that an interrupted run can't go on; set it to false, or exp_manager.resume_if_exists=false"
        )
    filename = params.filename or default_filename(options.name or "default", params.monitor)
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
        **when_to_save(params),
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


def default_filename(name: str, monitor: str | None) -> str:
    """NeMo's; it has none for a run without a monitor."""
    return f"{name}--{{{monitor}:.4f}}-{{epoch}}" if monitor else f"{name}--{{epoch}}-{{step}}"


def when_to_save(params: CallbackParams) -> dict:
    """The one of Lightning's three options that is set; every_n_epochs=1, NeMo's default, gives way to the others."""
    others = {
        "every_n_train_steps": params.every_n_train_steps,
        "train_time_interval": read_interval(params.train_time_interval),
    }
    chosen = {key: value for key, value in others.items() if value not in (None, 0)}
    if params.every_n_epochs not in (None, 0, 1):
        chosen["every_n_epochs"] = params.every_n_epochs
    if len(chosen) > 1:
        raise ValueError(
            f"exp_manager.checkpoint_callback_params: {' and '.join(chosen)} are set, and a run saves by one of them: "
            "set the others to null"
        )
    return chosen or {"every_n_epochs": params.every_n_epochs}


def read_interval(value: object) -> timedelta | None:
    """NeMo's `{_target_: datetime.timedelta, hours: 1}`; the _target_ may be left out."""
    if value is None:
        return None
    path = "exp_manager.checkpoint_callback_params.train_time_interval"
    if not isinstance(value, dict) or value.get("_target_", "datetime.timedelta") != "datetime.timedelta":
        raise ValueError(f"{path}={value!r} must be a mapping of a timedelta's arguments, such as hours: 1")
    arguments = {key: amount for key, amount in value.items() if key != "_target_"}
    refuse_unknown_keys(arguments, ("days", "hours", "minutes", "seconds"), path)
    try:
        interval = timedelta(**arguments)
    except TypeError as error:
        raise ValueError(f"{path}={value!r} must be numbers: {error}") from error
    if interval <= timedelta(0):
        raise ValueError(f"{path}={value!r} must be longer than nothing; null leaves it out")
    return interval
