"""Adan: momentum of gradients and of their differences (arXiv:2208.06677)."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer


class Adan(Optimizer):
    """Adaptive Nesterov momentum. Source: NeMo 3.0.0, whose numbers it gives.

    betas: decay of the gradient's average, of its difference's, of the squared look-ahead gradient's.
    max_grad_norm: clip the norm of all gradients together; 0 clips nothing.
    no_prox: shrink weights before the update, as AdamW does, instead of after it.
    foreach: NeMo's argument; both values give the same numbers, and here the same code.
    fused: needs a CUDA extension that isn't here: refused.
    Gradients stay as they are (NeMo overwrites them when clipping). A step without any changes nothing (NeMo counts it,
    which changes the correction of the averages).
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float = 0.0,
        no_prox: bool = False,
        foreach: bool = True,
        fused: bool = False,
    ):
        if fused:
            raise ValueError(f"fused={fused} needs the fused_adan extension, which isn't supported: set fused to false")
        if min(lr, eps, max_grad_norm) < 0:
            raise ValueError(f"lr={lr}, eps={eps} and max_grad_norm={max_grad_norm} must not be negative")
        if len(betas) != 3 or not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas={betas} must be three numbers of at least 0 and below 1")
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "max_grad_norm": max_grad_norm,
                "no_prox": no_prox,
                "foreach": foreach,  # NeMo looks for both in a checkpoint that goes on there
                "fused": fused,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale = self._clipping()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                group["step"] = group.get("step", 0) + 1
            for parameter in parameters:
                self._update(parameter, parameter.grad * scale, group)
        return loss

    def _clipping(self) -> float | Tensor:
        """Factor on every gradient, so that their common norm is at most max_grad_norm."""
        limit = self.defaults["max_grad_norm"]
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if limit == 0 or not gradients:
            return 1.0
        norm = torch.stack([gradient.float().norm() for gradient in gradients]).norm()
        return (limit / (norm + self.defaults["eps"])).clamp(max=1.0)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["exp_avg_diff"] = torch.zeros_like(parameter)
            state["neg_pre_grad"] = -gradient
        beta1, beta2, beta3 = group["betas"]
        correction1, correction2, correction3 = (1 - beta ** group["step"] for beta in group["betas"])
        lr, weight_decay = group["lr"], group["weight_decay"]

        difference = gradient + state["neg_pre_grad"]
        ahead = gradient + beta2 * difference
        average = state["exp_avg"].lerp_(gradient, 1 - beta1)
        average_difference = state["exp_avg_diff"].lerp_(difference, 1 - beta2)
        average_square = state["exp_avg_sq"].mul_(beta3).addcmul_(ahead, ahead, value=1 - beta3)
        state["neg_pre_grad"].copy_(-gradient)

        scale = (average_square / correction3).sqrt() + group["eps"]
        change = (average / correction1 + beta2 * average_difference / correction2) / scale
        if group["no_prox"]:
            parameter.mul_(1 - lr * weight_decay).sub_(lr * change)
        else:
            parameter.sub_(lr * change).div_(1 + lr * weight_decay)
