"""From the `sched` section of a config to a learning rate schedule, for Lightning."""

import inspect
from collections.abc import Mapping

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from core.config import check_arguments, plain
from core.optim.lr_scheduler import SCHEDULERS, UNCONFIGURABLE
from utils.config_check import nearest
from utils.logging import warn_once

FOR_LIGHTNING = ("monitor", "interval", "frequency", "reduce_on_plateau")
BY_EPOCH = ("ExponentialLR", "ReduceLROnPlateau")  # NeMo's rule; all others count optimizer steps


def get_scheduler(name: str, path: str = "model.optim.sched") -> type[LRScheduler]:
    """The scheduler class of a name. `path`: where the name stands in the config."""
    if name in UNCONFIGURABLE:
        raise ValueError(f"{path}.name={name!r} can't be written in a config ({UNCONFIGURABLE[name]}): choose another")
    if name not in SCHEDULERS:
        raise ValueError(f"{path}.name={name!r} is not a scheduler{nearest(name, SCHEDULERS)}")
    return SCHEDULERS[name]


def build_scheduler(
    optimizer: Optimizer,
    config: Mapping,
    *,
    max_steps: int | None = None,
    planned_steps: int | None = None,
    path: str = "model.optim.sched",
) -> dict:
    """The schedule that a config describes, as Lightning's dict: scheduler, interval, frequency, monitor.

    config: `name` and the scheduler's own arguments, beside it or under `args`. For Lightning: `monitor` (the logged
        metric that ReduceLROnPlateau follows), `interval` ("step" or "epoch") and `frequency`. null and -1 leave
        `max_steps` open.
    max_steps: `trainer.max_steps`, where that is set; it wins over the config's, as in NeMo.
    planned_steps: what the epochs of the run amount to; they count where the config leaves `max_steps` open.
    Raises ValueError, in one line, for an unknown scheduler or argument, or when max_steps is needed and unknown.
    NeMo 3.0.0 gives up in these cases and trains at a constant rate.
    """
    options = plain(config, path)
    options |= options.pop("args", None) or {}
    if "name" not in options:
        raise ValueError(f"{path}.name is missing: name a scheduler, or remove {path} for a constant rate")
    scheduler = get_scheduler(options.pop("name"), path)
    lightning = {key: options.pop(key) for key in FOR_LIGHTNING if key in options}
    options = with_max_steps(scheduler, options, max_steps, planned_steps, path)
    check_arguments(scheduler, {"optimizer": optimizer, **options}, path)
    try:
        schedule = scheduler(optimizer, **options)
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    return for_lightning(schedule, lightning, path)


def with_max_steps(
    scheduler: type[LRScheduler], options: dict, max_steps: int | None, planned_steps: int | None, path: str
) -> dict:
    """`options` with the number of steps that counts, if the scheduler asks for one."""
    if options.get("max_steps", ...) in (None, -1):
        del options["max_steps"]
    written = options.get("max_steps")
    if max_steps is None and written is None:
        max_steps = planned_steps
    if max_steps is None or "max_steps" not in inspect.signature(scheduler).parameters:
        return options
    if written is not None and written != max_steps:
        warn_once(f"{path}.max_steps={written} gives way to the trainer's {max_steps} steps")
    return {**options, "max_steps": max_steps}


def for_lightning(schedule: LRScheduler, lightning: dict, path: str) -> dict:
    """The dict that tells Lightning when to step the schedule."""
    name = type(schedule).__name__
    follows_metric = isinstance(schedule, ReduceLROnPlateau)
    if follows_metric and not lightning.get("monitor"):
        raise ValueError(f"{path}.monitor is missing: name the metric that {name} follows, e.g. val_loss or train_loss")
    if lightning.get("monitor") and not follows_metric:
        raise ValueError(f"{path}.monitor={lightning['monitor']!r} has no effect on {name}: remove it")
    if lightning.get("reduce_on_plateau", follows_metric) != follows_metric:
        raise ValueError(f"{path}.reduce_on_plateau must be {str(follows_metric).lower()} for {name}: remove it")
    interval = lightning.get("interval") or ("epoch" if name in BY_EPOCH else "step")
    if interval not in ("step", "epoch"):
        raise ValueError(f"{path}.interval={interval!r} is not one of step, epoch")
    return {
        "scheduler": schedule,
        "interval": interval,
        "frequency": lightning.get("frequency") or 1,
        "monitor": lightning.get("monitor"),
        "reduce_on_plateau": follows_metric,
    }
