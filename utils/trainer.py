"""The `trainer` section of a config -> Lightning's Trainer."""

import inspect
import logging
import warnings

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf
from torch.nn.parallel import DistributedDataParallel

from utils.checkpoint_files.checkpoint_io import WholeCheckpoints
from utils.config_check import first_line, nearest, refuse_unknown_keys
from utils.logging import info_once
from utils.training.callbacks import ValidateAtLeastOnce
from utils.training.progress import SpeechProgress
from utils.training.stop_signals import StopSignals
from utils.training.sync_batchnorm import SyncBatchNormOnCpu

STRATEGIES = {  # `trainer.strategy._target_`: what takes options beyond a name
    "lightning.pytorch.strategies.DDPStrategy": DDPStrategy,
    "pytorch_lightning.strategies.DDPStrategy": DDPStrategy,
}
NOT_FROM_A_CONFIG = ("callbacks", "plugins")  # objects; exp_manager and this module make them
HARMLESS = (  # Lightning's warnings about what is meant to be so
    ".*isinstance.treespec, LeafSpec.. is deprecated",
    "Found .* module.s. in eval mode at the start of training",  # frozen quantizer and mask embedding
    "Checkpoint directory .* exists and is not empty",  # resume_if_exists
    "The number of training batches .* is smaller than the logging interval",  # steps are counted across epochs
    "It is recommended to use `self.log.'val_.*sync_dist=True",  # `WeightedMeans` are equal on all ranks
    "Be aware that when using `ckpt_path`, callbacks used to create",  # each of ours says itself what it lacks
)
GPU_NAMES = ("gpu", "cuda", "mps")


def build_trainer(config: DictConfig) -> Trainer:
    """Lightning's Trainer with our progress bar, whose checkpoints are written whole and read without running code.

    Beyond Lightning's own reading of the options: `devices: -1` without a GPU is 1; `strategy` may be a mapping that
    names DDPStrategy and its options; an integer `val_check_interval` counts steps of the optimizer where
    `check_val_every_n_epoch` is null, and a fraction means epochs there; `sync_batchnorm` works on CPUs.
    Raises ValueError, in one line, for an unknown key and for a device that isn't there.
    """
    options = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    refuse_unknown_keys(options, inspect.signature(Trainer).parameters, "trainer")
    for key in NOT_FROM_A_CONFIG:
        if options.pop(key, None) is not None:
            raise ValueError(f"trainer.{key} can't be set from a config; leave it null")
    check_accelerator(options.get("accelerator", "auto"))
    options["devices"] = present_devices(options.get("devices", "auto"), options.get("accelerator", "auto"))
    if isinstance(options.get("strategy"), dict):
        options["strategy"] = build_strategy(options["strategy"])
    plugins = [WholeCheckpoints()]
    if options.get("sync_batchnorm") and not will_use_gpu(options.get("accelerator", "auto")):
        options["sync_batchnorm"] = False
        plugins.append(SyncBatchNormOnCpu())
    callbacks = [ValidateAtLeastOnce(), StopSignals()]
    if options.get("enable_progress_bar", True):
        callbacks.append(SpeechProgress())
    silence_lightning()
    try:
        return Trainer(**options | validation_interval(options), callbacks=callbacks, plugins=plugins)
    except (TypeError, ValueError, RuntimeError, AssertionError, ArithmeticError) as error:
        reason = first_line(error) or type(error).__name__
        raise ValueError(f"trainer: Lightning refuses these options: {reason}") from error


def silence_lightning() -> None:
    """No warnings about what is meant to be so, no advertisement."""
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_no_advertisement)


def is_no_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()


def check_accelerator(accelerator: str) -> None:
    if accelerator in GPU_NAMES and not has_gpu():
        raise ValueError(
            f"trainer.accelerator={accelerator}: torch {torch.__version__} finds no GPU on this machine; "
            "take trainer.accelerator=auto or cpu, or install a torch built for your GPU"
        )


def has_gpu() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def will_use_gpu(accelerator: str) -> bool:
    return accelerator != "cpu" and has_gpu()


def present_devices(devices: int | str | list[int], accelerator: str) -> int | str | list[int]:
    """`devices`, but 1 for NeMo's -1 ('all GPUs') where none will be used."""
    if str(devices) == "-1" and not will_use_gpu(accelerator):
        info_once("trainer.devices=-1 means all GPUs; without a GPU it is 1")
        return 1
    return devices


def build_strategy(options: dict) -> DDPStrategy:
    """DDPStrategy from a mapping with `_target_`; its other keys are its arguments or DistributedDataParallel's."""
    target = options.pop("_target_", None)
    if target not in STRATEGIES:
        raise ValueError(f"trainer.strategy._target_={target!r} can't be built{nearest(target, STRATEGIES)}")
    known = {*inspect.signature(STRATEGIES[target]).parameters, *inspect.signature(DistributedDataParallel).parameters}
    refuse_unknown_keys(options, known - {"kwargs", "module", "device_ids"}, "trainer.strategy")
    return STRATEGIES[target](**options)


def validation_interval(options: dict) -> dict:
    """Lightning's two options for when to validate.

    Lightning counts batches, not steps of the optimizer, and refuses a fraction without `check_val_every_n_epoch`.
    """
    interval, every_n_epochs = options.get("val_check_interval"), options.get("check_val_every_n_epoch", 1)
    if every_n_epochs is None and isinstance(interval, float):
        return {"check_val_every_n_epoch": 1}
    if every_n_epochs is None and isinstance(interval, int):
        return {"val_check_interval": interval * (options.get("accumulate_grad_batches") or 1)}
    return {}
