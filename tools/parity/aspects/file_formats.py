"""The files that models are kept in, `.nemo` archives and Lightning checkpoints, as a user writes and opens them.

`read` goes its own way to what stands in a file: with tarfile, yaml and torch, and nothing of this project's.
"""

import io
import logging
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from tools.parity.side import Side

LOGGERS = ("nest_ssl", "lightning.pytorch")
Content = tuple[dict[str, Tensor], dict[str, Any]]  # a state dict, a config


@dataclass(frozen=True)
class Format:
    """open: as the side's own class does.  read: what stands in a file; trusted: it may run code (NeMo's own file)."""

    write: Callable[[nn.Module, Path], None]
    open: Callable[[Side, Path], nn.Module]
    read: Callable[[Path, bool], Content]


def write_nemo(model: nn.Module, path: Path) -> None:
    model.save_to(str(path))


def open_nemo(side: Side, path: Path) -> nn.Module:
    return side.case.class_of(side.package).restore_from(str(path), map_location="cpu")


def read_nemo(path: Path, trusted: bool) -> Content:
    with tarfile.open(path) as archive:
        content = {Path(member.name).name: archive.extractfile(member) for member in archive if member.isfile()}
        config = OmegaConf.load(io.StringIO(content["model_config.yaml"].read().decode("utf-8")))
        weights = io.BytesIO(content["model_weights.ckpt"].read())
        return torch.load(weights, map_location="cpu", weights_only=True), plain(config)


def write_lightning(model: nn.Module, path: Path) -> None:
    from lightning.pytorch import Trainer  # seconds, for those who compare no files

    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    model._trainer = trainer
    trainer.save_checkpoint(path, weights_only=True)


def open_lightning(side: Side, path: Path) -> nn.Module:
    """NeMo's class insists on a config of omegaconf's, where our files have plain data: it is handed the file's."""
    handed = {"cfg": OmegaConf.create(read_lightning(path, True)[1])} if side.is_nemo else {}
    model_class = side.case.class_of(side.package)
    return model_class.load_from_checkpoint(str(path), map_location="cpu", **handed)


def read_lightning(path: Path, trusted: bool) -> Content:
    content = torch.load(path, map_location="cpu", weights_only=not trusted)
    return content["state_dict"], plain(content["hyper_parameters"]["cfg"])


def plain(config: DictConfig | dict) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.create(config), resolve=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, what is written and opened isn't logged."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


FORMATS: dict[str, Format] = {
    ".nemo": Format(write_nemo, open_nemo, read_nemo),
    ".ckpt": Format(write_lightning, open_lightning, read_lightning),
}
