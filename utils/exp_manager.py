"""Where a run writes: its folder, its loggers, its checkpoints, and where it goes on after an interruption."""

import importlib.util
import inspect
import os
import shlex
import shutil
import sys
import time
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from utils.config_check import refuse_unknown_keys
from utils.exp_callbacks import LOG_FILE, build_callbacks
from utils.exp_config import ExpManagerConfig, read_exp_config
from utils.going_on import checkpoint_to_resume
from utils.logging import info_once, is_rank_zero, logger, warn_once

VERSION_VARIABLE = "NEMO_EXPM_VERSION"  # NeMo's: the processes that rank zero starts take its version
TRAINING_MONITOR = "train_loss"  # where nothing is validated
COMMAND_FILE, CONFIG_FILE = "cmd-args.log", "config.yaml"
OF_ONE_RUN = (LOG_FILE, COMMAND_FILE, CONFIG_FILE, "hparams.yaml")  # set aside when a run goes on


def exp_manager(trainer: Trainer, cfg: DictConfig | dict | None = None, has_validation: bool = True) -> Path | None:
    """Give `trainer` loggers, checkpoints and timers as the `exp_manager` section says: NeMo's options and defaults.

    has_validation: ours; False lets checkpoints and early stopping go by the training loss where they name `val_*`.
    Returns the run's folder, `<exp_dir>/<name>/<version>`, without the version under `resume_if_exists`; None
    without a section or with `trainer.fast_dev_run`.
    Raises ValueError or FileNotFoundError, in one line, for options that can't be followed.
    """
    if cfg is None or trainer.fast_dev_run:
        logger.info("no exp_manager section, or trainer.fast_dev_run: nothing is logged or saved")
        return None
    options = read_exp_config(cfg)
    check_no_second_master(trainer, options)
    if not has_validation:
        monitor_training(options, trainer.val_check_interval)
    folder = run_folder(options)
    trainer.ckpt_path = checkpoint_to_resume(options, folder)
    if is_rank_zero():
        prepare(folder, options)
    trainer.loggers = build_loggers(options, folder)
    trainer.callbacks += build_callbacks(options, folder)
    logger.info(f"logs and checkpoints go to {folder}")
    return folder


def keep_config(cfg: DictConfig, folder: Path | None) -> None:
    """Write the whole config into the run's folder: `--config-path=<folder> --config-name=config` runs it again."""
    if folder is not None and is_rank_zero():
        OmegaConf.save(cfg, folder / CONFIG_FILE)


def check_no_second_master(trainer: Trainer, options: ExpManagerConfig) -> None:
    """NeMo refuses the same combinations."""
    if trainer.loggers and (options.create_tensorboard_logger or options.create_wandb_logger):
        raise ValueError("trainer.logger and exp_manager.create_*_logger both make loggers: set trainer.logger=false")
    if trainer.checkpoint_callbacks and options.create_checkpoint_callback:
        raise ValueError(
            "trainer.enable_checkpointing and exp_manager.create_checkpoint_callback both save checkpoints: "
            "set trainer.enable_checkpointing=false"
        )


def monitor_training(options: ExpManagerConfig, interval: int | float) -> None:
    """Checkpoints as often as validation would have been, by the training loss; NeMo saves none but the last."""
    checkpoints, stopping = options.checkpoint_callback_params, options.early_stopping_callback_params
    if (checkpoints.monitor or "").startswith("val"):
        info_once(f"nothing is validated: checkpoints go by {TRAINING_MONITOR} instead of {checkpoints.monitor}")
        if checkpoints.filename:
            checkpoints.filename = checkpoints.filename.replace(f"{{{checkpoints.monitor}", f"{{{TRAINING_MONITOR}")
        checkpoints.monitor = TRAINING_MONITOR
    if isinstance(interval, int) and not checkpoints.train_time_interval:
        checkpoints.every_n_train_steps = checkpoints.every_n_train_steps or interval
    checkpoints.save_on_train_epoch_end = True
    if stopping.monitor.startswith("val"):
        stopping.monitor, stopping.check_on_train_epoch_end = TRAINING_MONITOR, True


def run_folder(options: ExpManagerConfig) -> Path:
    """NeMo's rule for the folder. Only rank zero makes up a version; it hands it on through the environment."""
    if options.explicit_log_dir:
        if options.exp_dir or options.version:
            warn_once("exp_manager.explicit_log_dir is given: exp_dir and version are not used")
        return Path(options.explicit_log_dir).absolute()
    folder = Path(options.exp_dir or "nemo_experiments").absolute() / (options.name or "default")
    if options.version or options.resume_if_exists:
        return folder / (options.version or "")
    if is_rank_zero():
        os.environ[VERSION_VARIABLE] = time.strftime("%Y-%m-%d_%H-%M-%S")
        if not options.use_datetime_version:
            os.environ[VERSION_VARIABLE] = next_version(folder)
    return folder / os.environ.get(VERSION_VARIABLE, "")


def next_version(folder: Path) -> str:
    numbers = [path.name.removeprefix("version_") for path in folder.glob("version_*")]
    return f"version_{max((int(number) for number in numbers if number.isdigit()), default=-1) + 1}"


def prepare(folder: Path, options: ExpManagerConfig) -> None:
    """Make the folder, move the text files of an earlier run there into run_<n>, write the command line."""
    folder.mkdir(parents=True, exist_ok=True)
    if old := [folder / name for name in OF_ONE_RUN if (folder / name).exists()]:
        earlier = folder / f"run_{len(list(folder.glob('run_*')))}"
        earlier.mkdir()
        for path in old:
            path.rename(earlier / path.name)
    (folder / COMMAND_FILE).write_text(shlex.join(sys.argv) + "\n", encoding="utf-8")
    for path in options.files_to_copy or ():
        if not Path(path).is_file():
            raise FileNotFoundError(f"exp_manager.files_to_copy: {path} is not a file")
        shutil.copy(path, folder)


def build_loggers(options: ExpManagerConfig, folder: Path) -> list[Logger]:
    """TensorBoard writes into the folder itself, so that the curves of a resumed run join."""
    loggers = []
    if options.create_tensorboard_logger:
        check_installed("tensorboard", "create_tensorboard_logger")
        writer_options = options.summary_writer_kwargs or {}
        if "log_dir" in writer_options:
            raise ValueError("exp_manager.summary_writer_kwargs.log_dir: leave it out, the run's folder it is")
        loggers.append(TensorBoardLogger(save_dir=folder, name="", version="", **writer_options))
    if options.create_wandb_logger:
        check_installed("wandb", "create_wandb_logger")
        loggers.append(build_wandb_logger(options.wandb_logger_kwargs or {}, folder))
    return loggers


def check_installed(package: str, option: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"exp_manager.{option}=true needs the package {package}: pip install {package} (or set the option to false)"
        )


def build_wandb_logger(given: dict, folder: Path) -> WandbLogger:
    """Weights & Biases; WANDB_MODE=offline keeps the run on this machine."""
    import wandb

    known = {*inspect.signature(WandbLogger).parameters, *inspect.signature(wandb.init).parameters} - {"kwargs"}
    refuse_unknown_keys(given, known, "exp_manager.wandb_logger_kwargs")
    return WandbLogger(**{"save_dir": folder} | {key: value for key, value in given.items() if value is not None})
