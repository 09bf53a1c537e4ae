"""NeMo 3.0.0's experiment manager options: ours with NeMo's defaults, and those that we refuse by name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from utils.config_check import as_yaml, first_line, refuse_unknown_keys


@dataclass
class CallbackParams:
    """`checkpoint_callback_params`. dirpath: default <run folder>/checkpoints; filename: without .ckpt.

    The model itself is written as <dirpath>/<prefix><postfix>; prefix: default exp_manager.name. See
    `utils.experiment.run_model.RunModel` for when it is, and of which weights.
    """

    dirpath: str | None = None
    filename: str | None = None
    monitor: str | None = "val_loss"
    verbose: bool = True
    save_last: bool = True
    save_top_k: int = 3
    save_weights_only: bool = False
    mode: str = "min"
    auto_insert_metric_name: bool = True
    every_n_epochs: int | None = 1
    every_n_train_steps: int | None = None
    train_time_interval: Any = None
    prefix: str | None = None
    postfix: str = ".nemo"
    save_best_model: bool = False
    always_save_nemo: bool = False
    save_nemo_on_train_end: bool = True
    save_on_train_epoch_end: bool = False


@dataclass
class EarlyStoppingParams:
    """Arguments of Lightning's EarlyStopping."""

    monitor: str = "val_loss"
    mode: str = "min"
    min_delta: float = 0.001
    patience: int = 10  # validations without improvement
    verbose: bool = True
    strict: bool = True
    check_finite: bool = True
    stopping_threshold: float | None = None
    divergence_threshold: float | None = None
    check_on_train_epoch_end: bool | None = None
    log_rank_zero_only: bool = False


@dataclass
class EmaParams:
    """Arguments of `utils.training.ema.EMA`."""

    enable: bool = False
    decay: float = 0.999
    cpu_offload: bool = False
    validate_original_weights: bool = False
    every_n_steps: int = 1


@dataclass
class MlflowParams:
    """Arguments of Lightning's MLFlowLogger. tracking_uri: default $MLFLOW_TRACKING_URI, else files in save_dir.

    experiment_name: default exp_manager.name; run_name: default the name of the run's folder.
    """

    experiment_name: str | None = None
    run_name: str | None = None
    tracking_uri: str | None = None
    tags: dict[str, Any] | None = None
    save_dir: str = "./mlruns"
    prefix: str = ""
    artifact_location: str | None = None
    run_id: str | None = None  # default: that of the run that is gone on with
    log_model: Any = False  # true: the checkpoints, too, at the end; all: as they come


@dataclass
class StepTimingParams:
    """Arguments of `utils.training.callbacks.StepTimer`."""

    reduction: str = "mean"
    sync_cuda: bool = False
    buffer_size: int = 1


@dataclass
class ExpManagerConfig:
    """The `exp_manager` section, in NeMo's order; create_csv_logger and max_skipped_steps_in_a_row are ours."""

    explicit_log_dir: str | None = None
    exp_dir: str | None = None
    name: str | None = None
    version: str | None = None
    use_datetime_version: bool = True
    resume_if_exists: bool = False
    resume_past_end: bool = False
    resume_ignore_no_checkpoint: bool = False
    resume_from_checkpoint: str | None = None
    create_tensorboard_logger: bool = True
    summary_writer_kwargs: dict[str, Any] | None = None
    create_wandb_logger: bool = False
    wandb_logger_kwargs: dict[str, Any] | None = None
    create_mlflow_logger: bool = False
    mlflow_logger_kwargs: MlflowParams = field(default_factory=MlflowParams)
    create_csv_logger: bool = False
    create_checkpoint_callback: bool = True
    checkpoint_callback_params: CallbackParams = field(default_factory=CallbackParams)
    create_early_stopping_callback: bool = False
    early_stopping_callback_params: EarlyStoppingParams = field(default_factory=EarlyStoppingParams)
    create_preemption_callback: bool = True
    files_to_copy: list[str] | None = None
    log_step_timing: bool = True
    step_timing_kwargs: StepTimingParams = field(default_factory=StepTimingParams)
    ema: EmaParams = field(default_factory=EmaParams)
    max_time_per_run: str | None = None
    max_skipped_steps_in_a_row: int = 10


SECTIONS = {
    "mlflow_logger_kwargs": MlflowParams,
    "checkpoint_callback_params": CallbackParams,
    "early_stopping_callback_params": EarlyStoppingParams,
    "step_timing_kwargs": StepTimingParams,
    "ema": EmaParams,
}
OTHER_LOGGERS = "log with create_tensorboard_logger, create_wandb_logger, create_mlflow_logger or create_csv_logger"
PSEUDO_LABELS = "it belongs to pseudo-label training; trainer.max_epochs ends a run"
SUPERVISION = "use your cluster's own supervision"
NEMO_ONLY: dict[str, tuple[Any, str]] = {  # option: NeMo's default, which is accepted, and what to do instead
    "create_dllogger_logger": (False, OTHER_LOGGERS),
    "dllogger_logger_kwargs": ({"verbose": False, "stdout": False, "json_file": "./dllogger.json"}, OTHER_LOGGERS),
    "create_clearml_logger": (False, OTHER_LOGGERS),
    "clearml_logger_kwargs": (
        {
            "project": None,
            "task": None,
            "connect_pytorch": False,
            "model_name": None,
            "tags": None,
            "log_model": False,
            "log_cfg": False,
            "log_metrics": False,
        },
        OTHER_LOGGERS,
    ),
    "create_neptune_logger": (False, OTHER_LOGGERS),
    "neptune_logger_kwargs": (None, OTHER_LOGGERS),
    "create_ipl_epoch_stopper_callback": (False, PSEUDO_LABELS),
    "ipl_epoch_stopper_callback_params": ({"enable_stop": True, "stop_every_n_epochs": 1}, PSEUDO_LABELS),
    "log_delta_step_timing": (False, "log_step_timing logs the same seconds"),
    "disable_validation_on_resume": (True, "after a resume only an interrupted validation is repeated"),
    "seconds_to_sleep": (5, "no rank has to wait for another here"),
    "create_straggler_detection_callback": (False, SUPERVISION),
    "straggler_detection_params": (
        {
            "report_time_interval": 300,
            "calc_relative_gpu_perf": True,
            "calc_individual_gpu_perf": True,
            "num_gpu_perf_scores_to_log": 5,
            "gpu_relative_perf_threshold": 0.7,
            "gpu_individual_perf_threshold": 0.7,
            "stop_if_detected": False,
        },
        SUPERVISION,
    ),
    "create_fault_tolerance_callback": (False, SUPERVISION),
    "fault_tolerance": (
        {
            "workload_check_interval": 5.0,
            "initial_rank_heartbeat_timeout": 3600.0,
            "rank_heartbeat_timeout": 2700.0,
            "calculate_timeouts": True,
            "safety_factor": 5.0,
            "rank_termination_signal": 9,
            "log_level": "INFO",
            "max_rank_restarts": 0,
            "max_subsequent_job_failures": 0,
            "additional_ft_launcher_args": "",
            "simulated_fault": None,
        },
        SUPERVISION,
    ),
    "log_tflops_per_sec_per_gpu": (True, "FLOPs of this model are not counted, in NeMo either"),
    "checkpoint_callback_params.filepath": (None, "use dirpath and filename"),
    "checkpoint_callback_params.model_parallel_size": (None, "no model is split over devices here"),
    "checkpoint_callback_params.async_save": (False, "a step waits for its checkpoint"),
    "checkpoint_callback_params.save_last_n_optim_states": (-1, "every checkpoint holds the optimizer's state"),
}


def read_exp_config(config: Mapping) -> ExpManagerConfig:
    """The section with NeMo's defaults filled in.

    Raises ValueError, in one line with the key's path, for a key that neither NeMo nor we know, for a value other than
    NeMo's default under a key of NEMO_ONLY, and for a value of the wrong type.
    """
    given = as_plain(config)
    in_sections = {f"{name}.{key}" for name, kind in SECTIONS.items() for key in names_of(kind)}
    refuse_unknown_keys(given, OURS | NEMO_ONLY.keys() | in_sections, "exp_manager")
    for name, kind in SECTIONS.items():
        section = given[name] = as_section(given.get(name), f"exp_manager.{name}")
        nemo_only = {key.removeprefix(f"{name}.") for key in NEMO_ONLY if key.startswith(f"{name}.")}
        refuse_unknown_keys(section, names_of(kind) | nemo_only, f"exp_manager.{name}")
    for key, (default, remedy) in NEMO_ONLY.items():
        section, _, name = key.rpartition(".")
        holder = given[section] if section else given
        refuse_unless_default(holder.pop(name, default), default, f"exp_manager.{key}", remedy)
    options = OmegaConf.structured(ExpManagerConfig)
    for key, value in single_options(given):
        try:
            OmegaConf.update(options, key, value, merge=False)
        except OmegaConfBaseException as error:
            raise ValueError(f"exp_manager.{key}={as_yaml(value)}: {first_line(error)}") from error
    return OmegaConf.to_object(options)


def single_options(given: dict) -> Iterator[tuple[str, Any]]:
    for name, value in given.items():
        if name in SECTIONS:
            yield from ((f"{name}.{key}", option) for key, option in value.items())
        else:
            yield name, value


def names_of(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


OURS = names_of(ExpManagerConfig)


def as_plain(config: Mapping) -> dict:
    """The section as a dict, with what its references stand for."""
    if not isinstance(config, Mapping):
        raise ValueError(f"exp_manager={config!r} must be a mapping of options")
    section = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
    try:
        return OmegaConf.to_container(section, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key or 'exp_manager'}: {first_line(error)}") from error


def as_section(value: Any, path: str) -> dict:
    if not isinstance(value, dict | NoneType):
        raise ValueError(f"{path}={value!r} must be a mapping of options")
    return value or {}


def refuse_unless_default(value: Any, default: Any, path: str, remedy: str) -> None:
    """Raise ValueError for the first value, however deep in mappings, that isn't NeMo's default."""
    if isinstance(default, dict):
        section = as_section(value, path)
        refuse_unknown_keys(section, default, path)
        for key in section:
            refuse_unless_default(section[key], default[key], f"{path}.{key}", remedy)
    elif value != default:
        raise ValueError(f"{path}={as_yaml(value)} is not implemented: leave it out; {remedy}")
