"""NeMo 3.0.0's experiment manager options: ours with NeMo's defaults, and those that we refuse by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from utils.config_check import refuse_unknown_keys


@dataclass
class CallbackParams:
    """`checkpoint_callback_params`. dirpath: default <run folder>/checkpoints; filename: without .ckpt."""

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
    """Arguments of `utils.ema.EMA`."""

    enable: bool = False
    decay: float = 0.999
    cpu_offload: bool = False
    validate_original_weights: bool = False
    every_n_steps: int = 1


@dataclass
class StepTimingParams:
    """Arguments of `utils.callbacks.StepTimer`."""

    reduction: str = "mean"
    sync_cuda: bool = False
    buffer_size: int = 1


@dataclass
class ExpManagerConfig:
    """The `exp_manager` section."""

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


SECTIONS = {
    "checkpoint_callback_params": CallbackParams,
    "early_stopping_callback_params": EarlyStoppingParams,
    "step_timing_kwargs": StepTimingParams,
    "ema": EmaParams,
}
OTHER_LOGGERS = "log with create_tensorboard_logger or create_wandb_logger"
PSEUDO_LABELS = "it belongs to pseudo-label training; trainer.max_epochs ends a run"
SUPERVISION = "use your cluster's own supervision"
NEMO_ONLY: dict[str, tuple[Any, str]] = {  # option: NeMo's default, which is accepted, and what to do instead
    "create_mlflow_logger": (False, OTHER_LOGGERS),
    "mlflow_logger_kwargs": (
        {
            "experiment_name": None,
            "run_name": None,
            "tracking_uri": None,
            "tags": None,
            "save_dir": "./mlruns",
            "prefix": "",
            "artifact_location": None,
            "run_id": None,
            "log_model": False,
        },
        OTHER_LOGGERS,
    ),
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
    "disable_validation_on_resume": (True, "a resumed run never validates before its first step"),
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
    "log_tflops_per_sec_per_gpu": (True, "nobody counts FLOPs of this model, NeMo neither"),
    "checkpoint_callback_params.filepath": (None, "use dirpath and filename"),
    "checkpoint_callback_params.prefix": (None, "write it into filename"),
    "checkpoint_callback_params.postfix": (".nemo", "checkpoints end in .ckpt"),
    "checkpoint_callback_params.save_best_model": (False, "save_top_k=1 keeps the best checkpoint"),
    "checkpoint_callback_params.model_parallel_size": (None, "no model is split over devices here"),
    "checkpoint_callback_params.async_save": (False, "a step waits for its checkpoint"),
    "checkpoint_callback_params.save_last_n_optim_states": (-1, "every checkpoint holds the optimizer's state"),
}


def read_exp_config(config: Mapping) -> ExpManagerConfig:
    """The section with NeMo's defaults filled in.

    Raises ValueError, in one line, for a key that NeMo doesn't know, and for a value other than NeMo's default under
    a key of NEMO_ONLY; OmegaConf's ValidationError for a value of the wrong type.
    """
    section = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
    given = OmegaConf.to_container(section, resolve=True)
    for name in SECTIONS.keys() & given.keys():
        given[name] = given[name] or {}
    known = {field.name for field in fields(ExpManagerConfig)} | NEMO_ONLY.keys()
    refuse_unknown_keys(given, known, "exp_manager")
    for name in SECTIONS.keys() & given.keys():
        own = {field.name for field in fields(SECTIONS[name])}
        nemo_only = {key.removeprefix(f"{name}.") for key in NEMO_ONLY if key.startswith(f"{name}.")}
        refuse_unknown_keys(given[name], own | nemo_only, f"exp_manager.{name}")
    for key in NEMO_ONLY:
        take_out(given, key)
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ExpManagerConfig), given))


def take_out(given: dict, key: str) -> None:
    """Remove an option of NEMO_ONLY, written with dots, from the section; ValueError unless it has NeMo's default."""
    section, _, name = key.rpartition(".")
    holder = given.get(section, {}) if section else given
    default, remedy = NEMO_ONLY[key]
    value = holder.pop(name, default)
    if isinstance(default, dict):
        refuse_unknown_keys(value or {}, default, f"exp_manager.{key}")
        value = default | (value or {})
    if value != default:
        raise ValueError(f"exp_manager.{key}={value} is not implemented: leave it out; {remedy}")
