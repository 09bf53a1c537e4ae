"""`Loss`: base of training objectives."""

from torch import nn

from core.classes.serialization import Serialization
from core.classes.typecheck import Typing


class Loss(nn.Module, Typing, Serialization):
    """Predictions and targets -> a scalar. Built from a config like any module."""
