"""Base classes of everything that is built from a config."""

from core.classes.dataset import Dataset, IterableDataset
from core.classes.loss import Loss
from core.classes.model import ModelPT
from core.classes.module import NeuralModule
from core.classes.serialization import Serialization, from_config_dict
from core.classes.typecheck import Typing, typecheck
from core.targets import register_targets

__all__ = [
    "Dataset",
    "IterableDataset",
    "Loss",
    "ModelPT",
    "NeuralModule",
    "Serialization",
    "Typing",
    "from_config_dict",
    "register_targets",
    "typecheck",
]
