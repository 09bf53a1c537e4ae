"""Where the numbers of a run go: TensorBoard, Weights & Biases, MLflow, a table. A resumed run goes on there."""

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from utils.checkpoint_files.files import written_whole
from utils.config_check import first_line, refuse_unknown_keys
from utils.experiment.csv_logger import TableLogger
from utils.experiment.exp_config import ExpManagerConfig
from utils.logging import is_rank_zero, logger

RUN_IDS_FILE = "logger_runs.json"  # in the run's folder: what the services call this run
SERVICES: dict[str, type[Logger]] = {"wandb": WandbLogger, "mlflow": MLFlowLogger}
FILE_STORE_VARIABLE = "MLFLOW_ALLOW_FILE_STORE"  # MLflow's: from 3.7 on it refuses files unless this is true


def build_loggers(options: ExpManagerConfig, folder: Path, goes_on: bool = False) -> list[Logger]:
    """The loggers that are asked for. goes_on: from a checkpoint, so in the same run at each service."""
    run_ids = read_run_ids(folder) if goes_on else {}
    return [build(options, folder, run_ids) for option, build in LOGGERS.items() if getattr(options, option)]


def tensorboard_logger(options: ExpManagerConfig, folder: Path, run_ids: dict) -> TensorBoardLogger:
    """It writes into the folder itself, so that the curves of a resumed run join."""
    from torch.utils.tensorboard import SummaryWriter

    path, given = "exp_manager.summary_writer_kwargs", options.summary_writer_kwargs or {}
    for key in {"log_dir", "save_dir", "name", "version"} & given.keys():
        raise ValueError(f"{path}.{key}: leave it out, the run's folder it is")
    refuse_unknown_keys(given, arguments_of(TensorBoardLogger) | arguments_of(SummaryWriter), path)
    return TensorBoardLogger(save_dir=folder, name="", version="", **given)


def wandb_logger(options: ExpManagerConfig, folder: Path, run_ids: dict) -> WandbLogger:
    """Weights & Biases; WANDB_MODE=offline keeps the run on this machine. NeMo 3.0.0 begins a run at each resume."""
    import wandb

    given = {key: value for key, value in (options.wandb_logger_kwargs or {}).items() if value is not None}
    refuse_unknown_keys(given, arguments_of(WandbLogger) | arguments_of(wandb.init), "exp_manager.wandb_logger_kwargs")
    if "wandb" in run_ids and not {"id", "version"} & given.keys() and not os.environ.get("WANDB_RUN_ID"):
        given["id"] = run_ids["wandb"]
    return WandbLogger(**{"save_dir": folder, "resume": "allow"} | given)


def mlflow_logger(options: ExpManagerConfig, folder: Path, run_ids: dict) -> MLFlowLogger:
    """MLflow: at tracking_uri or $MLFLOW_TRACKING_URI, else in files under save_dir.

    NeMo 3.0.0 passes run_name twice, which raises, and doesn't look at the variable.
    """
    params = options.mlflow_logger_kwargs
    uri = params.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or Path(params.save_dir).absolute().as_uri()
    if uri.startswith("file:"):
        os.environ.setdefault(FILE_STORE_VARIABLE, "true")
    return MLFlowLogger(
        experiment_name=params.experiment_name or options.name or "default",
        run_name=params.run_name or folder.name,
        tracking_uri=uri,
        tags=params.tags,
        save_dir=params.save_dir,
        log_model=params.log_model,
        prefix=params.prefix,
        artifact_location=params.artifact_location,
        run_id=params.run_id or existing_mlflow_run(uri, run_ids.get("mlflow")),
    )


def existing_mlflow_run(uri: str, run_id: str | None) -> str | None:
    """`run_id`, if MLflow still has it."""
    if run_id is None or not is_rank_zero():
        return None
    from mlflow import MlflowClient

    try:
        MlflowClient(uri).get_run(run_id)
    except Exception as error:  # its stores raise what they like, the one of files a bare Exception
        logger.warning(f"the MLflow run {run_id} can't be resumed; a new run starts: {first_line(error)}")
        return None
    return run_id


def csv_logger(options: ExpManagerConfig, folder: Path, run_ids: dict) -> TableLogger:
    return TableLogger(folder)


def arguments_of(called: Callable) -> set[str]:
    return {*inspect.signature(called).parameters} - {"self", "kwargs"}


LOGGERS: dict[str, Callable[[ExpManagerConfig, Path, dict], Logger]] = {
    "create_tensorboard_logger": tensorboard_logger,
    "create_wandb_logger": wandb_logger,
    "create_mlflow_logger": mlflow_logger,
    "create_csv_logger": csv_logger,
}


class KeepLoggers(Callback):
    """What a resumed run needs of its loggers, so that it goes on there.

    In the run's folder: what W&B and MLflow call this run. In checkpoints: how many lines metrics.csv has, and the one
    of the step just done, which Lightning logs after the checkpoint is saved, and a resumed run not at all.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not trainer.is_global_zero:
            return
        run_ids = {
            name: used.version for name, kind in SERVICES.items() for used in trainer.loggers if isinstance(used, kind)
        }
        if run_ids:
            with written_whole(self._folder / RUN_IDS_FILE) as unfinished:
                unfinished.write_text(json.dumps(run_ids) + "\n", encoding="utf-8")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict) -> None:
        for used in trainer.loggers:
            used.save()  # to the disk: a kill would lose what TensorBoard still holds
        lines = max((table.lines for table in tables_of(trainer)), default=0)
        checkpoint["callbacks"][self.state_key] = {"lines": lines, "line_to_come": line_to_come(trainer)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict) -> None:
        if trainer.state.fn != "fit":
            return
        state = checkpoint.get("callbacks", {}).get(self.state_key, {})
        for table in tables_of(trainer):
            table.go_on(state.get("lines"), checkpoint["global_step"])
            if line := dict(state.get("line_to_come", {})):
                table.log_metrics(line, line.pop("step"))


def tables_of(trainer: Trainer) -> list[TableLogger]:
    return [used for used in trainer.loggers if isinstance(used, TableLogger)]


def line_to_come(trainer: Trainer) -> dict[str, float]:
    """What Lightning logs of the last batch when the callbacks that follow it are done; nothing anywhere else."""
    loop, connector = trainer.fit_loop.epoch_loop, trainer._logger_connector
    count = loop.batch_progress.current
    is_after_batch = count.ready == count.processed > count.completed
    if not is_after_batch or loop._should_accumulate() or not connector.should_update_logs:
        return {}
    numbers = {name: float(value) for name, value in connector.metrics["log"].items()}
    return numbers and {"step": loop._batches_that_stepped, **numbers, "epoch": trainer.current_epoch}


def read_run_ids(folder: Path) -> dict[str, str]:
    """What KeepRunIds wrote; nothing where it wrote none, or somebody else something else."""
    try:
        run_ids = json.loads((folder / RUN_IDS_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    is_ours = isinstance(run_ids, dict) and all(isinstance(run_id, str) for run_id in run_ids.values())
    return run_ids if is_ours else {}
