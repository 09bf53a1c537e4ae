"""What goes into every module and what comes out, call by call, so that two sides can be held against each other.

Module names are the same on both sides, as are parameter names; arguments get one name here (`PORTS`). Activations and
dropout are left out.
"""

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tools.parity.cases import Levels

ROOT = "(model)"  # the name of the outermost module
EVALUATION, TRAINING = "evaluation", "training"
SAME_ALWAYS = (nn.Linear, nn.Conv1d, nn.LayerNorm)  # in training and in evaluation
BEHIND = ("decoder", "loss", "spec_augmentation")  # the encoder, where our training takes a shorter way than NeMo's
LEFT_OUT = (  # what the modules around show
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
    nn.ReLU, nn.SiLU, nn.GELU, nn.GLU, nn.ELU, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.LogSoftmax,
)  # fmt: skip
PORTS = {  # argument names of NeMo and of this project -> what it is
    "input": "x", "query": "x", "audio_signal": "x", "input_signal": "x", "encoder_output": "x", "input_feats": "x",
    "lengths": "lengths", "length": "lengths", "seq_len": "lengths", "input_lengths": "lengths",
    "pos_emb": "positions", "mask": "mask", "att_mask": "mask", "attention_mask": "mask", "hidden": "mask",
    "pad_mask": "padding",
    "key": None, "value": None,  # self-attention: the query again
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """The `count`-th call of a module in a phase. inputs: port -> key of a blob; outputs: keys of blobs."""

    phase: str
    module: str
    count: int
    inputs: dict[str, str]
    outputs: list[str]


@dataclass
class Trace:
    """phases: those that are noted.  brief: what little a record in the project keeps, see `leaves_out`.

    calls: in the order in which they finished.  blobs: the tensors, each once.
    open: calls that something raised in, without outputs; the innermost is the last.
    """

    phases: tuple[str, ...] = (EVALUATION, TRAINING)
    brief: bool = False
    calls: list[Call] = field(default_factory=list)
    blobs: Levels = field(default_factory=dict)
    open: list[Call] = field(default_factory=list)

    @contextmanager
    def watch(self, root: nn.Module, phase: str) -> Iterator[None]:
        """Inside, note the calls of `root` and its parts."""
        counts: dict[str, int] = {}
        hooks = []
        for name, module in root.named_modules():
            if phase not in self.phases or self.leaves_out(name, module, phase):
                continue
            hooks += self.hooks(module, name or ROOT, phase, counts)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def leaves_out(self, name: str, module: nn.Module, phase: str) -> bool:
        """Activations and dropout; if brief also single convolutions of the subsampling, and in training all that
        stands behind the encoder or does the same as in evaluation."""
        if not name:
            return False
        if isinstance(module, LEFT_OUT) or (self.brief and "pre_encode.conv." in name):
            return True
        return self.brief and phase == TRAINING and (isinstance(module, SAME_ALWAYS) or name.startswith(BEHIND))

    def hooks(self, module: nn.Module, name: str, phase: str, counts: dict[str, int]) -> list:
        def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
            counts[name] = counts.get(name, 0) + 1
            self.open.append(Call(phase, name, counts[name], self.keep_inputs(module, args, kwargs), []))

        def leave(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            call = self.open.pop()
            self.calls.append(replace(call, outputs=[self.keep(tensor) for tensor in tensors_in(output)]))

        return [
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave, with_kwargs=True),
        ]

    def keep_inputs(self, module: nn.Module, args: tuple, kwargs: dict) -> dict[str, str]:
        names = [name for name in inspect.signature(module.forward).parameters if name != "self"]
        return {
            port: self.keep(value)
            for port, value in with_ports(dict(zip(names, args)) | kwargs)
            if not (self.brief and value.dim() == 2 and value.is_floating_point())  # waveforms
        }

    def keep(self, tensor: Tensor) -> str:
        """Its key; layers that work in place can't change what is kept."""
        tensor = tensor.detach().contiguous().clone()
        content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        key = hashlib.sha1(f"{tensor.dtype} {tuple(tensor.shape)} ".encode() + content).hexdigest()[:16]
        self.blobs.setdefault(key, tensor)
        return key

    def find(self, phase: str, module: str, count: int = 1) -> Call | None:
        return next((c for c in self.calls if (c.phase, c.module, c.count) == (phase, module, count)), None)

    def input(self, call: Call, port: str) -> Tensor | None:
        return self.blobs.get(call.inputs.get(port, ""))

    def output(self, call: Call, index: int = 0) -> Tensor:
        return self.blobs[call.outputs[index]]

    def to_json(self) -> dict[str, Any]:
        """All but the blobs."""
        return {name: [list(asdict(call).values()) for call in getattr(self, name)] for name in ("calls", "open")}

    @classmethod
    def from_json(cls, facts: dict[str, Any], blobs: Levels) -> "Trace":
        calls, unfinished = ([Call(*call) for call in facts[name]] for name in ("calls", "open"))
        return cls(calls=calls, blobs=blobs, open=unfinished)


def with_ports(given: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Port and tensor of each argument; the parts of a named tuple (our masks of local attention) are `mask.padding`
    and the like."""
    for name, value in given.items():
        port = PORTS.get(name, name)
        if isinstance(value, Tensor) and port is not None:
            yield prefix + port, value
        elif hasattr(value, "_asdict"):
            yield from with_ports(value._asdict(), prefix=f"{port}.")


def tensors_in(output: Any) -> Iterator[Tensor]:
    """The tensors of a module's output, in order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from tensors_in(part)
