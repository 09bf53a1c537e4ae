"""One number for a model's weights: equal for equal names, types, shapes and bits."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

METADATA_KEY = "sha256"  # where a .safetensors file has it: the format has no checksum of its own


def digest(state_dict: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 in hex digits, of a text and of the tensors in the order of their names.

    state_dict: dense tensors on the CPU, in any layout. text: what stands beside them, such as a config as JSON.
    """
    result = hashlib.sha256(text.encode())
    for name, tensor in sorted(state_dict.items()):
        result.update(f"{name!r} {tensor.dtype} {list(tensor.shape)}\n".encode())
        result.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
    return result.hexdigest()
