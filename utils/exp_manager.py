"""The experiment manager: where a run writes, what it logs, which checkpoints it keeps, where it goes on."""

import os
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from omegaconf import DictConfig, OmegaConf

from utils.checkpoint_files.checkpoint_io import WholeCheckpoints
from utils.checkpoint_files.files import written_whole
from utils.experiment.exp_callbacks import build_callbacks
from utils.experiment.exp_config import ExpManagerConfig, read_exp_config
from utils.experiment.exp_values import check_values
from utils.experiment.going_on import checkpoint_folder, checkpoint_to_resume
from utils.experiment.log_file import LogFile
from utils.experiment.loggers import LOGGERS, build_loggers
from utils.experiment.preflight import check_loggers, check_writable
from utils.experiment.provenance import write_provenance
from utils.experiment.run_folder import CONFIG_FILE, check_copies, prepare, run_folder
from utils.logging import info_once, is_rank_zero, logger

TRAINING_MONITOR = "train_loss"  # where nothing is validated


def exp_manager(trainer: Trainer, cfg: DictConfig | dict | None = None, has_validation: bool = True) -> Path | None:
    """Give `trainer` loggers, checkpoints and timers as the `exp_manager` section says: NeMo's options and defaults.

    has_validation: ours; False lets checkpoints and early stopping go by the training loss where they name `val_*`.
    Returns the run's folder, `<exp_dir>/<name>/<version>`, without the version under `resume_if_exists`; None
    without a section or with `trainer.fast_dev_run`.
    Raises ValueError or OSError, in one line, for options that can't be followed; nothing is written then.
    """
    if cfg is None or trainer.fast_dev_run:
        logger.info("no exp_manager section, or trainer.fast_dev_run: nothing is logged or saved")
        return None
    options = read_exp_config(cfg)
    check_values(options)
    check_no_second_master(trainer, options)
    check_loggers(options)
    if not has_validation:
        monitor_training(options, trainer)
    folder = run_folder(options)
    use_run_folder(trainer, folder)
    trainer.ckpt_path = checkpoint_to_resume(options, folder)
    loggers = build_loggers(options, folder, goes_on=trainer.ckpt_path is not None)
    callbacks = build_callbacks(options, folder)
    if is_rank_zero():
        make_ready(folder, options)
    trainer.loggers = loggers
    trainer.callbacks += [LogFile(folder), *callbacks]
    logger.info(f"logs and checkpoints go to {folder}")
    return folder


def use_run_folder(trainer: Trainer, folder: Path) -> None:
    """What it saves without our callbacks, as under Slurm, is written whole too, and into the run's folder."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # of a trainer that isn't from `build_trainer`
        trainer.strategy.checkpoint_io = WholeCheckpoints()
    if trainer.default_root_dir == os.getcwd():
        trainer._default_root_dir = str(folder)  # NeMo does the same


def keep_config(cfg: DictConfig, folder: Path | None) -> None:
    """Write the whole config, with what its references stand for, into the run's folder.

    `--config-path=<folder> --config-name=config` runs it again.
    """
    if folder is not None and is_rank_zero():
        with written_whole(folder / CONFIG_FILE) as unfinished:
            OmegaConf.save(cfg, unfinished, resolve=True)


def make_ready(folder: Path, options: ExpManagerConfig) -> None:
    """Only rank zero does this. See `utils.experiment.run_folder` and `utils.experiment.provenance`."""
    check_copies(options.files_to_copy or ())
    check_writable(folder, "explicit_log_dir" if options.explicit_log_dir else "exp_dir")
    if options.create_checkpoint_callback and options.checkpoint_callback_params.dirpath:
        checkpoints = checkpoint_folder(options.checkpoint_callback_params, folder)
        check_writable(checkpoints, "checkpoint_callback_params.dirpath")
    prepare(folder, options.files_to_copy or ())
    write_provenance(folder)


def check_no_second_master(trainer: Trainer, options: ExpManagerConfig) -> None:
    """NeMo refuses the same combinations."""
    if trainer.loggers and any(getattr(options, option) for option in LOGGERS):
        raise ValueError("trainer.logger and exp_manager.create_*_logger both make loggers: set trainer.logger=false")
    if trainer.checkpoint_callbacks and options.create_checkpoint_callback:
        raise ValueError(
            "trainer.enable_checkpointing and exp_manager.create_checkpoint_callback both save checkpoints: "
            "set trainer.enable_checkpointing=false"
        )


def monitor_training(options: ExpManagerConfig, trainer: Trainer) -> None:
    """Checkpoints as often as validation would have been, by the training loss; NeMo saves none but the last."""
    checkpoints, stopping = options.checkpoint_callback_params, options.early_stopping_callback_params
    if (checkpoints.monitor or "").startswith("val"):
        info_once(f"nothing is validated: checkpoints go by {TRAINING_MONITOR} instead of {checkpoints.monitor}")
        if checkpoints.filename:
            checkpoints.filename = checkpoints.filename.replace(f"{{{checkpoints.monitor}", f"{{{TRAINING_MONITOR}")
        checkpoints.monitor = TRAINING_MONITOR
    has_its_own_interval = checkpoints.train_time_interval or checkpoints.every_n_epochs not in (None, 1)
    if isinstance(trainer.val_check_interval, int) and not has_its_own_interval:
        steps = max(1, trainer.val_check_interval // trainer.accumulate_grad_batches)
        checkpoints.every_n_train_steps = checkpoints.every_n_train_steps or steps
    checkpoints.save_on_train_epoch_end = True
    if stopping.monitor.startswith("val"):
        stopping.monitor, stopping.check_on_train_epoch_end = TRAINING_MONITOR, True
