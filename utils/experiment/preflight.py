"""What would end a run hours later, looked for before its first step: no room, no right to write, no login, a typo."""

import importlib.util
import inspect
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor

from utils.config_check import nearest
from utils.experiment.exp_config import CallbackParams, ExpManagerConfig
from utils.logging import logger

PACKAGES = {  # option: what it needs; pip calls it so, too
    "create_tensorboard_logger": "tensorboard",
    "create_wandb_logger": "wandb",
    "create_mlflow_logger": "mlflow",
}
MOMENTS = 2  # numbers that an optimizer keeps for each weight that it trains; Adam's
NO_LOGIN = ("offline", "disabled", "dryrun")  # W&B's modes
GB = 1e9


# before anything is made


def check_loggers(options: ExpManagerConfig) -> None:
    """Raise ValueError, in one line, where a logger's package isn't installed or W&B has no login."""
    for option, package in PACKAGES.items():
        if getattr(options, option) and importlib.util.find_spec(package) is None:
            raise ValueError(
                f"exp_manager.{option}=true needs the package {package}: pip install {package} "
                "(or set the option to false)"
            )
    if options.create_wandb_logger:
        check_wandb_login(options.wandb_logger_kwargs or {})


def check_wandb_login(given: Mapping) -> None:
    """Raise ValueError where W&B would ask for a key; asks neither the user nor the network. given: the logger's."""
    import wandb

    mode = given.get("mode") or wandb.setup().settings.mode
    if given.get("offline") or given.get("anonymous") or mode in NO_LOGIN:
        return
    if "prompt" in inspect.signature(wandb.login).parameters:
        is_logged_in = wandb.login(prompt=False, verify=False)
    else:
        is_logged_in = wandb.api.api_key is not None  # versions that can't be kept from asking
    if not is_logged_in:
        raise ValueError(
            "exp_manager.create_wandb_logger=true: Weights & Biases knows no key of yours: run `wandb login`, or set "
            "WANDB_API_KEY, or WANDB_MODE=offline to keep the run on this machine"
        )


def check_writable(folder: Path, option: str) -> None:
    """Make the folder and write into it; raise OSError, in one line, where that can't be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        taken = next((path for path in (folder, *folder.parents) if path.is_file()), None)
        reason = f"{taken} is a file" if taken else error.strerror
        raise OSError(f"exp_manager.{option}: can't write to {folder}: {reason}; name another folder") from error


# before the first step


class Preflight(Callback):
    """Stops a run before its first step where a monitor is logged by nothing, or the disk can't hold two checkpoints.

    Warns when the disk can't hold `save_top_k` checkpoints. All ranks stop alike.
    What a model logs is known where it says so itself, by `metric_names()`; callbacks say so by `metric_names`.
    """

    def __init__(self, params: CallbackParams):
        self._params = params

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_monitors(trainer.callbacks, logged_names(trainer, pl_module))
        problem = room_problem(trainer, pl_module, self._params)  # on all ranks: callbacks may wait there
        if problem := trainer.strategy.broadcast(problem):  # rank zero's, which writes
            raise OSError(problem)


def logged_names(trainer: Trainer, pl_module: LightningModule) -> set[str]:
    """Empty where it isn't known what the model logs."""
    names = getattr(pl_module, "metric_names", None)
    if names is None:
        return set()
    of_callbacks = (getattr(callback, "metric_names", ()) for callback in trainer.callbacks)
    return {*names(), *chain.from_iterable(of_callbacks), *trainer.callback_metrics}


def check_monitors(callbacks: Iterable[Callback], logged: set[str]) -> None:
    """Raise ValueError for a checkpoint's or early stopping's metric that isn't among `logged`."""
    sections = {ModelCheckpoint: "checkpoint_callback_params", EarlyStopping: "early_stopping_callback_params"}
    for callback in callbacks:
        section = next((name for kind, name in sections.items() if isinstance(callback, kind)), None)
        monitor = getattr(callback, "monitor", None)
        if section and logged and monitor is not None and monitor not in logged:
            raise ValueError(f"exp_manager.{section}.monitor={monitor}: nothing logs it{nearest(monitor, logged)}")


def room_problem(trainer: Trainer, pl_module: LightningModule, params: CallbackParams) -> str | None:
    """What to tell the user where the disk has no room for two checkpoints, the least that a run needs to go on."""
    folder = Path(trainer.checkpoint_callback.dirpath)
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    size = checkpoint_bytes(trainer, pl_module, params)
    there = sum(path.stat().st_size for path in folder.rglob("*.ckpt"))  # the run replaces them
    kept = max(params.save_top_k, 1) + bool(params.save_last)
    has = f"a checkpoint takes about {size / GB:.3g} GB, and {folder} has {free / GB:.3g} GB free"
    if free < 2 * size - there:
        return (
            f"exp_manager.checkpoint_callback_params: {has}, too little for the last and the one being written; "
            "free some, or set dirpath to a folder on a larger disk"
        )
    if free < (kept + 1) * size - there:
        logger.warning(
            f"exp_manager.checkpoint_callback_params: {has}, which is less than the {kept + 1} of them "
            f"that save_top_k={params.save_top_k} and save_last ask for; the run ends where the disk is full"
        )
    return None


def checkpoint_bytes(trainer: Trainer, pl_module: LightningModule, params: CallbackParams) -> int:
    """About the size of a checkpoint, from the model, its optimizer and what callbacks keep, such as averages."""
    size = tensor_bytes(pl_module.state_dict())
    if not params.save_weights_only:
        size += MOMENTS * tensor_bytes([p for p in pl_module.parameters() if p.requires_grad])
        size += sum(tensor_bytes(callback.state_dict()) for callback in trainer.callbacks)
    if params.always_save_nemo:
        size += tensor_bytes(pl_module.state_dict())
    return size


def tensor_bytes(held: object) -> int:
    """Of all tensors in nested dicts and lists."""
    if isinstance(held, Tensor):
        return held.nbytes
    if isinstance(held, Mapping):
        return sum(map(tensor_bytes, held.values()))
    return sum(map(tensor_bytes, held)) if isinstance(held, list | tuple) else 0
