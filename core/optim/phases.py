"""The phases of a learning rate schedule: warm-up, hold, annealing, constant end.

A schedule is a dataclass: its fields are its arguments, those of the classes above it included, all of them keywords
but the optimizer. `__post_init__` turns what was asked for into steps before the first rate is set.
"""

from dataclasses import KW_ONLY, dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def count_steps(phase: str, steps: int | None, ratio: float | None, max_steps: int | None) -> int:
    """Length of a phase that is given in steps or as a share of `max_steps`; 0 when given as neither."""
    if steps is not None and ratio is not None:
        raise ValueError(f"{phase}_steps={steps} and {phase}_ratio={ratio} are both given: set one of them to null")
    if min(steps or 0, ratio or 0) < 0:
        raise ValueError(f"{phase}_{'steps' if ratio is None else 'ratio'}={steps or ratio} must not be negative")
    if ratio is None:
        return steps or 0
    if max_steps is None:
        raise ValueError(f"{phase}_ratio={ratio} is a share of max_steps: set max_steps, or give {phase}_steps")
    return int(ratio * max_steps)


@dataclass(eq=False, repr=False)
class Schedule(LRScheduler):
    """A rate for each step. A subclass counts its steps, then calls this `__post_init__`, and answers `rate`."""

    optimizer: Optimizer
    _: KW_ONLY
    max_steps: int | None = None
    min_lr: float = 0.0
    last_epoch: int = -1

    needs_max_steps = True

    def __post_init__(self):
        if self.max_steps is None and self.needs_max_steps:
            raise ValueError("max_steps is not known: set trainer.max_steps, or max_steps of the schedule")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps={self.max_steps} must be at least 1")
        super().__init__(self.optimizer, self.last_epoch)

    def get_lr(self) -> list[float]:
        return [self.rate(base_lr, self.last_epoch) for base_lr in self.base_lrs]

    def rate(self, base_lr: float, step: int) -> float:
        """Rate after `step` steps of a group whose base rate is `base_lr`."""
        raise NotImplementedError

    def is_over(self, step: int) -> bool:
        """True where annealing has ended and only `min_lr` is left."""
        return self.max_steps is not None and step > self.max_steps


@dataclass(kw_only=True, eq=False, repr=False)
class WarmupPolicy(Schedule):
    """Linear warm-up, then the base rate; subclasses anneal from there."""

    warmup_steps: int | None = None
    warmup_ratio: float | None = None

    needs_max_steps = False
    hold_steps = 0  # the step at which a hold at the base rate ends

    def __post_init__(self):
        self.warmup_steps = count_steps("warmup", self.warmup_steps, self.warmup_ratio, self.max_steps)
        super().__post_init__()

    def rate(self, base_lr: float, step: int) -> float:
        if self.warmup_steps > 0 and step <= self.warmup_steps:
            return self.warm_up(base_lr, step)
        if step < self.hold_steps:
            return base_lr
        if self.is_over(step):
            return self.min_lr
        return self.anneal(base_lr, step)

    def warm_up(self, base_lr: float, step: int) -> float:
        return base_lr * (step + 1) / (self.warmup_steps + 1)

    def anneal(self, base_lr: float, step: int) -> float:
        """Rate from the end of warm-up (and hold) to max_steps."""
        return base_lr


@dataclass(kw_only=True, eq=False, repr=False)
class WarmupHoldPolicy(WarmupPolicy):
    """Linear warm-up, the base rate for `hold_steps`, then the base rate again; subclasses anneal from there.

    The attribute `hold_steps` is the step at which the hold ends, 0 when none was asked for (as in NeMo).
    """

    hold_steps: int | None = None
    hold_ratio: float | None = None

    def __post_init__(self):
        warmup = count_steps("warmup", self.warmup_steps, self.warmup_ratio, self.max_steps)
        hold = count_steps("hold", self.hold_steps, self.hold_ratio, self.max_steps)
        self.hold_steps = 0 if self.hold_steps is None and self.hold_ratio is None else warmup + hold
        super().__post_init__()


@dataclass(kw_only=True, eq=False, repr=False)
class WarmupAnnealHoldPolicy(WarmupPolicy):
    """Linear warm-up, the base rate, then `min_lr` for the last `constant_steps`; subclasses anneal in between."""

    constant_steps: int | None = None
    constant_ratio: float | None = None

    needs_max_steps = True

    def __post_init__(self):
        self.constant_steps = count_steps("constant", self.constant_steps, self.constant_ratio, self.max_steps)
        super().__post_init__()

    def is_over(self, step: int) -> bool:
        return step > self.max_steps - self.constant_steps


@dataclass(kw_only=True, eq=False, repr=False)
class SquareRootConstantPolicy(Schedule):
    """1 / sqrt(constant_steps) for `constant_steps`, then the base rate; subclasses anneal from there."""

    constant_steps: int | None = None
    constant_ratio: float | None = None

    def __post_init__(self):
        self.constant_steps = count_steps("constant", self.constant_steps, self.constant_ratio, self.max_steps)
        if self.constant_steps < 1:
            raise ValueError("constant_steps (or constant_ratio) is missing: the rate starts at its -0.5th power")
        super().__post_init__()

    def rate(self, base_lr: float, step: int) -> float:
        if step <= self.constant_steps:
            return self.constant_steps**-0.5
        if self.is_over(step):
            return self.min_lr
        return self.anneal(base_lr, step)

    def anneal(self, base_lr: float, step: int) -> float:
        """Rate from the end of the constant phase to max_steps."""
        return base_lr
