"""Files that a stranger might send, made for tests."""

import io
from collections import OrderedDict
from collections.abc import Callable

import torch


class Calls:
    """Pickled as a call of `function`: what unpickling would run."""

    def __init__(self, function: Callable, *arguments: object):
        self.reduced = function, arguments

    def __reduce__(self) -> tuple:
        return self.reduced


def tensor_of(storage: torch.Tensor, offset: int, shape: tuple, strides: tuple) -> Calls:
    """A tensor that claims what it likes of a storage."""
    function = torch._utils._rebuild_tensor_v2
    return Calls(function, storage._typed_storage(), offset, shape, strides, False, OrderedDict())


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def archive(pickle: bytes, **storages: bytes) -> bytes:
    """A whole file of torch.save's form with any pickle in it, every checksum right."""
    file = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(file)
    records = {"data.pkl": pickle, "byteorder": b"little", **{f"data/{name}": data for name, data in storages.items()}}
    for name, content in records.items():
        writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return file.getvalue()


def flipped(content: bytes, position: int, bits: int) -> bytes:
    return content[:position] + bytes([content[position] ^ bits]) + content[position + 1 :]
