"""Models as .safetensors: the state dict, and among the metadata the config as JSON and a checksum of both."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from utils.checkpoint_files.tensor_digest import METADATA_KEY, digest


def write_safetensors(config: Mapping, state_dict: Mapping[str, Tensor], path: Path) -> None:
    """config: plain data; it becomes the metadata's `config`, from which `read_weights` gives it back.

    Tensors that a model has under several names are written under each: the format knows no sharing.
    """
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()}
    text = json.dumps(config)
    path.touch()
    mode = path.stat().st_mode  # the user's for new files; safetensors lets nobody else read what it writes
    save_file(tensors, path, metadata={"format": "pt", "config": text, METADATA_KEY: digest(tensors, text)})
    path.chmod(mode)
