"""Learning rate schedules, with NeMo 3.0.0's names, arguments and numbers, and torch's beside them.

Every schedule is one function: base rate and step -> rate. All arguments but the optimizer are keywords:

warmup_steps or warmup_ratio: linear growth over that many steps, or over that share of max_steps.
hold_steps or hold_ratio: then the base rate for as long.
constant_steps or constant_ratio: the last steps before max_steps, at `min_lr`.
max_steps: where annealing ends; beyond it the rate is `min_lr`.
last_epoch: -1 starts; n continues after n steps (the optimizer's groups then hold `initial_lr`), as in torch.

Differences from NeMo 3.0.0: wrong arguments are ValueErrors when the schedule is built (NeMo: assertions, or an error
in the middle of the run); every parameter group follows its own base rate (NeMo's WarmupAnnealing, and CosineAnnealing
with constant steps, give all groups the rate of the first).
"""

import math
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    StepLR,
)

from core.optim.phases import (
    Schedule,
    SquareRootConstantPolicy,
    WarmupAnnealHoldPolicy,
    WarmupHoldPolicy,
    WarmupPolicy,
    count_steps,
)
from utils.logging import warn_once


def check_min_lr(optimizer: Optimizer, min_lr: float) -> None:
    """A schedule that falls towards `min_lr` can't start below it."""
    for group in optimizer.param_groups:
        base_lr = group.get("initial_lr", group["lr"])
        if base_lr < min_lr:
            raise ValueError(f"min_lr={min_lr} is above the optimizer's lr={base_lr}: lower min_lr or raise lr")


@dataclass(kw_only=True, eq=False, repr=False)
class SquareAnnealing(WarmupPolicy):
    """Square of the share of steps that are left after warm-up."""

    min_lr: float = 1e-5

    needs_max_steps = True

    def anneal(self, base_lr: float, step: int) -> float:
        left = (self.max_steps - step) / (self.max_steps - self.warmup_steps)
        return max(base_lr * left**2, self.min_lr)


class SquareRootAnnealing(WarmupPolicy):
    """Square root of the share of all steps that are left: the rate drops at the end of warm-up, as NeMo's does."""

    needs_max_steps = True

    def anneal(self, base_lr: float, step: int) -> float:
        return max(base_lr * ((self.max_steps - step) / self.max_steps) ** 0.5, self.min_lr)


class WarmupAnnealing(WarmupPolicy):
    """A straight line from the base rate at the end of warm-up to `min_lr` at max_steps."""

    needs_max_steps = True

    def anneal(self, base_lr: float, step: int) -> float:
        done = (step - self.warmup_steps) / (self.max_steps - self.warmup_steps)
        return self.min_lr + (1 - done) * (base_lr - self.min_lr)


class InverseSquareRootAnnealing(WarmupPolicy):
    """Base rate over sqrt(step / warm-up). `min_lr` is no floor: it counts beyond max_steps only, as in NeMo."""

    needs_max_steps = True

    def anneal(self, base_lr: float, step: int) -> float:
        return base_lr / ((step + 1) / (self.warmup_steps + 1)) ** 0.5


@dataclass(kw_only=True, eq=False, repr=False)
class PolynomialDecayAnnealing(WarmupPolicy):
    """Share of steps left after warm-up to the `power`, from the base rate to `min_lr`.

    cycle: NeMo's argument. A new cycle would begin beyond max_steps, where the rate is `min_lr`: it has no effect, in
    NeMo neither, and says so.
    """

    power: float = 1.0
    cycle: bool = False

    needs_max_steps = True

    def __post_init__(self):
        if self.cycle:
            warn_once("PolynomialDecayAnnealing: cycle has no effect; remove it, or use PolynomialHoldDecayAnnealing")
        super().__post_init__()

    def anneal(self, base_lr: float, step: int) -> float:
        decay_steps = self.max_steps - self.warmup_steps
        return polynomial(base_lr, self.min_lr, step - self.warmup_steps, decay_steps, self.power)


def polynomial(base_lr: float, min_lr: float, step: int, decay_steps: int, power: float, cycle: bool = False) -> float:
    """From `base_lr` at step 0 to `min_lr` at `decay_steps`; beyond, `min_lr`, or with `cycle` a longer decay."""
    if decay_steps < 1:
        return min_lr
    if cycle and step > 0:
        decay_steps *= math.ceil(step / decay_steps)
    left = 1 - min(step, decay_steps) / decay_steps
    return min_lr + (base_lr - min_lr) * left**power


class WarmupHoldAnnealOneMinusSquareRoot(WarmupHoldPolicy):
    """One minus the square root of the share done since the hold (arXiv:2408.11029), never below `min_lr`."""

    needs_max_steps = True

    def anneal(self, base_lr: float, step: int) -> float:
        done = (step - self.hold_steps) / max(1, self.max_steps - self.hold_steps)
        return max(self.min_lr, base_lr * (1 - done**0.5))


class WarmupHoldAnnealLinear(WarmupHoldPolicy):
    """A straight line from the end of the hold to `min_lr` at max_steps (arXiv:2404.06395)."""

    needs_max_steps = True

    def anneal(self, base_lr: float, step: int) -> float:
        done = (step - self.hold_steps) / max(1, self.max_steps - self.hold_steps)
        return base_lr - (base_lr - self.min_lr) * done


@dataclass(kw_only=True, eq=False, repr=False)
class NoamHoldAnnealing(WarmupHoldPolicy):
    """Base rate x (warm-up / (step - hold)) ** decay_rate after the hold (Squeezeformer, arXiv:2206.00888).

    Unlike NoamAnnealing, the optimizer's lr is the peak rate. decay_rate 0.5 is Noam's, 1.0 Squeezeformer's.
    """

    decay_rate: float = 0.5

    needs_max_steps = True

    def __post_init__(self):
        if not count_steps("warmup", self.warmup_steps, self.warmup_ratio, self.max_steps):
            raise ValueError("NoamHoldAnnealing decays from its warm-up: set warmup_steps (or warmup_ratio) above 0")
        super().__post_init__()

    def anneal(self, base_lr: float, step: int) -> float:
        held = max(0, self.hold_steps - self.warmup_steps)
        grown = max(1, self.warmup_steps**self.decay_rate)
        return max(base_lr * grown / max(1, (step - held) ** self.decay_rate), self.min_lr)


@dataclass(kw_only=True, eq=False, repr=False)
class PolynomialHoldDecayAnnealing(WarmupHoldPolicy):
    """Polynomial decay after the hold.

    Without hold_steps the decay counts from step 0, so the rate drops at the end of warm-up; `cycle` then starts a
    longer decay where the first is over. Both as in NeMo; give hold_steps=0 for a decay from the end of warm-up.
    """

    power: float = 1.0
    cycle: bool = False

    needs_max_steps = True

    def anneal(self, base_lr: float, step: int) -> float:
        decay_steps = self.max_steps - max(self.warmup_steps, self.hold_steps)
        return polynomial(base_lr, self.min_lr, step - self.hold_steps, decay_steps, self.power, self.cycle)


class CosineAnnealing(WarmupAnnealHoldPolicy):
    """Half a cosine from the base rate to `min_lr`. With constant steps the warm-up starts at 0, as in NeMo."""

    def __post_init__(self):
        check_min_lr(self.optimizer, self.min_lr)
        super().__post_init__()

    def warm_up(self, base_lr: float, step: int) -> float:
        if self.constant_steps > 0:
            return base_lr * step / self.warmup_steps
        return super().warm_up(base_lr, step)

    def anneal(self, base_lr: float, step: int) -> float:
        decay_steps = max(1, self.max_steps - self.constant_steps - self.warmup_steps)
        done = (step - self.warmup_steps) / decay_steps
        return self.min_lr + (base_lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(kw_only=True, eq=False, repr=False)
class NoamAnnealing(Schedule):
    """lr x d_model^-0.5 x min(step^-0.5, step x warmup_steps^-1.5): the optimizer's lr is a factor, not a rate.

    The peak, at `warmup_steps`, is lr / sqrt(d_model x warmup_steps). `min_lr` counts after warm-up. max_steps only
    gives warmup_ratio its meaning: the rate goes on falling beyond it. (Attention Is All You Need, arXiv:1706.03762.)
    """

    d_model: int
    warmup_steps: int | None = None
    warmup_ratio: float | None = None

    needs_max_steps = False

    def __post_init__(self):
        check_min_lr(self.optimizer, self.min_lr)
        self.warmup_steps = count_steps("warmup", self.warmup_steps, self.warmup_ratio, self.max_steps)
        super().__post_init__()

    def rate(self, base_lr: float, step: int) -> float:
        step = max(1, step)
        scale = base_lr * self.d_model**-0.5
        if step <= self.warmup_steps:
            return scale * step * self.warmup_steps**-1.5
        return max(scale * step**-0.5, self.min_lr)


class T5InverseSquareRootAnnealing(SquareRootConstantPolicy):
    """1 / sqrt(step), constant at first. The optimizer's lr has no effect: the schedule is the rate (T5, as in NeMo).

    NeMo's raises with constant_ratio; here it works.
    """

    def anneal(self, base_lr: float, step: int) -> float:
        return step**-0.5


NEMO_SCHEDULERS: tuple[type[LRScheduler], ...] = (
    WarmupPolicy,
    WarmupHoldPolicy,
    SquareAnnealing,
    CosineAnnealing,
    NoamAnnealing,
    NoamHoldAnnealing,
    WarmupHoldAnnealOneMinusSquareRoot,
    WarmupHoldAnnealLinear,
    WarmupAnnealing,
    InverseSquareRootAnnealing,
    T5InverseSquareRootAnnealing,
    SquareRootAnnealing,
    PolynomialDecayAnnealing,
    PolynomialHoldDecayAnnealing,
)
TORCH_SCHEDULERS: tuple[type[LRScheduler], ...] = (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    StepLR,
)
SCHEDULERS: dict[str, type[LRScheduler]] = {cls.__name__: cls for cls in (*NEMO_SCHEDULERS, *TORCH_SCHEDULERS)}

# torch's schedulers that a config can't describe, and why
UNCONFIGURABLE: dict[str, str] = {
    "LambdaLR": "it takes Python functions",
    "MultiplicativeLR": "it takes Python functions",
    "SequentialLR": "it takes schedulers",
    "ChainedScheduler": "it takes schedulers",
}
