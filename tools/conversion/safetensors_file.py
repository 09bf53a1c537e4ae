"""Models as .safetensors: the state dict, and the config as JSON among the metadata."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


def write_safetensors(config: Mapping, state_dict: Mapping[str, Tensor], path: Path) -> None:
    """config: plain data; it becomes the metadata's `config`, from which `read_weights` gives it back.

    Tensors that a model has under several names are written under each: the format knows no sharing.
    """
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()}
    save_file(tensors, path, metadata={"format": "pt", "config": json.dumps(config)})
