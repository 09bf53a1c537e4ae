"""NovoGrad: one second moment per tensor (arXiv:1905.11286)."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer


class Novograd(Optimizer):
    """Gradients divided by the running norm of their tensor, then averaged. Source: NeMo 3.0.0, whose numbers it gives.

    betas: decay of the average, decay of the squared norm. The first squared norm is taken as it is.
    grad_averaging: weigh new gradients by 1 - betas[0].
    amsgrad: divide by the largest squared norm so far.
    luc: clip each tensor's update to `luc_trust` times the tensor's norm, relative to the update's.
    Gradients stay as they are (NeMo overwrites them).
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        grad_averaging: bool = False,
        amsgrad: bool = False,
        luc: bool = False,
        luc_trust: float = 1e-3,
        luc_eps: float = 1e-8,
    ):
        if lr < 0 or eps < 0:
            raise ValueError(f"lr={lr} and eps={eps} must not be negative")
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas={betas} must be at least 0 and below 1")
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "grad_averaging": grad_averaging,
                "amsgrad": amsgrad,
            },
        )
        self.luc = luc
        self.luc_trust = luc_trust
        self.luc_eps = luc_eps

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros((), device=parameter.device)
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = torch.zeros((), device=parameter.device)
        state["step"] += 1
        beta1, beta2 = group["betas"]

        squared_norm = parameter.grad.norm() ** 2
        average = state["exp_avg_sq"]
        average.copy_(torch.where(average == 0, squared_norm, beta2 * average + (1 - beta2) * squared_norm))
        if group["amsgrad"]:
            average = torch.maximum(state["max_exp_avg_sq"], average, out=state["max_exp_avg_sq"])
        direction = parameter.grad / (average.sqrt() + group["eps"]) + group["weight_decay"] * parameter
        if group["grad_averaging"]:
            direction *= 1 - beta1
        momentum = state["exp_avg"].mul_(beta1).add_(direction)
        parameter.sub_(momentum * self._step_size(parameter, momentum, group["lr"]))

    def _step_size(self, parameter: Tensor, momentum: Tensor, lr: float) -> float | Tensor:
        if not self.luc:
            return lr
        return (self.luc_trust * parameter.norm() / (momentum.norm() + self.luc_eps)).clamp(max=lr)
