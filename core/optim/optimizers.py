"""Optimizers by name: all of torch's under their lower-case names, as NeMo writes them, Adan and NovoGrad."""

import inspect
from collections.abc import Iterable, Mapping

import torch
from torch.optim import Optimizer

from core.config import check_arguments, plain
from core.optim.adan import Adan
from core.optim.novograd import Novograd
from utils.config_check import nearest

# torch's optimizers that can't train a model of mixed dense layers, and why
UNUSABLE: dict[str, str] = {
    "sparseadam": "it takes sparse gradients, and no layer here gives them",
    "muon": "it takes matrices only, and biases, norms and convolutions aren't",
}
OPTIMIZERS: dict[str, type[Optimizer]] = {
    name.lower(): cls
    for name, cls in vars(torch.optim).items()
    if inspect.isclass(cls) and issubclass(cls, Optimizer) and cls is not Optimizer and name.lower() not in UNUSABLE
} | {"adan": Adan, "novograd": Novograd}


def get_optimizer(name: str, path: str = "model.optim") -> type[Optimizer]:
    """The optimizer class of a name. `path`: where the name stands in the config.

    `adafactor` is torch's, whose arguments differ from NeMo's. The optimizers of apex aren't here.
    """
    if name in UNUSABLE:
        raise ValueError(f"{path}.name={name!r} can't train this model: {UNUSABLE[name]}; use adamw")
    if name not in OPTIMIZERS:
        raise ValueError(f"{path}.name={name!r} is not an optimizer{nearest(name.lower(), OPTIMIZERS)}")
    return OPTIMIZERS[name]


def build_optimizer(params: Iterable, config: Mapping, path: str = "model.optim") -> Optimizer:
    """The optimizer that a config describes.

    params: parameters, or groups {"params": [...], "lr": ...}, as torch takes them.
    config: `name` (adam when absent, as in NeMo) and the optimizer's own arguments, beside them or under `args`;
        `sched` is left to `build_scheduler`.
    Raises ValueError, in one line, for an unknown optimizer, argument or a value that the optimizer refuses.
    """
    arguments = {key: value for key, value in plain(config, path).items() if key not in ("name", "sched", "args")}
    optimizer = get_optimizer(config.get("name") or "adam", path)
    arguments |= nested_arguments(config.get("args"), f"{path}.args")
    # yaml has lists where torch wants tuples: betas, etas, eps, step_sizes
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    if arguments.get("lr", ...) is None:  # null means the optimizer's own, as in NeMo
        del arguments["lr"]
    check_arguments(optimizer, {"params": params, **arguments}, path)
    try:
        return optimizer(params, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


def nested_arguments(args: Mapping | None, path: str) -> dict:
    """Arguments written under `args`, plain or in NeMo's older `params`."""
    if args is None:
        return {}
    arguments = plain(args, path)
    if "name" in arguments:
        raise ValueError(f"{path}.name={arguments['name']!r} stands for NeMo's defaults: name each argument instead")
    return arguments.get("params") or arguments
