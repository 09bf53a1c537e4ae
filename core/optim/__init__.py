"""Optimizers and learning rate schedules by name."""

from core.optim.optimizers import OPTIMIZERS, build_optimizer, get_optimizer
from core.optim.schedulers import SCHEDULERS, build_scheduler, get_scheduler

__all__ = [
    "OPTIMIZERS",
    "SCHEDULERS",
    "build_optimizer",
    "build_scheduler",
    "get_optimizer",
    "get_scheduler",
]
