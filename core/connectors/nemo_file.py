"""NeMo's archive of a model, `.nemo`: a tar of `model_config.yaml` and `model_weights.ckpt`."""

import io
import tarfile
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from utils.checkpoint_file import load_checkpoint, save_checkpoint
from utils.files import written_whole

CONFIG = "model_config.yaml"
WEIGHTS = "model_weights.ckpt"


def read_nemo_config(path: str | Path) -> DictConfig:
    """The model's config, as written."""
    with tarfile.open(path, "r:*") as archive:
        member = next(m for m in archive.getmembers() if Path(m.name).name == CONFIG)
        return OmegaConf.create(archive.extractfile(member).read().decode())


def read_nemo_weights(path: str | Path) -> dict[str, Tensor]:
    """The model's state dict, on the CPU."""
    with tarfile.open(path, "r:*") as archive:
        member = next(m for m in archive.getmembers() if Path(m.name).name == WEIGHTS)
        return load_checkpoint(io.BytesIO(archive.extractfile(member).read()), name=f"{path}: {WEIGHTS}")


def write_nemo(path: str | Path, config: DictConfig, state_dict: dict[str, Tensor]) -> None:
    """Write a model, whole or not at all."""
    with written_whole(path) as unfinished, tarfile.open(unfinished, "w:") as archive:
        weights = unfinished.with_name(f"{unfinished.name}.{WEIGHTS}")
        save_checkpoint(state_dict, weights)
        archive.add(weights, arcname=f"./{WEIGHTS}")
        weights.unlink()
        text = OmegaConf.to_yaml(config, resolve=True).encode()
        entry = tarfile.TarInfo(f"./{CONFIG}")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
