"""Whether numbers of a step are finite: gradients, weights, running statistics, audio."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def gradients(optimizer: Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def any_value_not_finite(optimizer: Optimizer) -> bool:
    return any(not gradient.isfinite().all() for gradient in gradients(optimizer))


def norm(tensors: Iterable[Tensor]) -> Tensor | float:
    """(): of all of them together; 0 of none. Not finite where one of their values isn't."""
    tensors = list(tensors)
    if not tensors:
        return 0.0
    return torch.stack([one.float() for one in torch._foreach_norm(tensors)]).norm()  # a kernel for all, as torch clips


def peak(batch: object) -> Tensor | float:
    """(): the largest absolute sample of a batch's `audio` and `noisy_audio`, as far as it has them."""
    signals = [getattr(batch, name, None) for name in ("audio", "noisy_audio")]
    limits = [torch.aminmax(x) for x in signals if isinstance(x, Tensor) and x.numel()]
    return torch.stack([torch.maximum(high, -low) for low, high in limits]).max() if limits else 0.0


def first_not_finite(module: nn.Module) -> str:
    """Name of the first parameter with a value that isn't finite; '' where there is none."""
    named = [(name, p.detach()) for name, p in module.named_parameters() if p.numel()]
    if math.isfinite(norm(p for _, p in named)):
        return ""
    return next((name for name, p in named if not p.isfinite().all()), "")


def running_statistics(module: nn.Module) -> list[Tensor]:
    """What batch and instance norms gather in training."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._NormBase)]
    return [buffer for layer in norms for buffer in layer.buffers(recurse=False)]


def copy_all(sources: list[Tensor], targets: list[Tensor]) -> None:
    with torch.no_grad():
        for source, target in zip(sources, targets):
            target.copy_(source)
