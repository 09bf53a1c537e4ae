"""Which axis of a module's input or output is time, so that padding can be told from what is real.

Shapes: B batch, T mel frames, S encoder steps, F mel bins, D d_model, C channels, V codes per book, Q codebooks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tools.parity.trace import ROOT, Call, Trace

Port = str | int  # an input's name, or an output's number

NO_TIME = None
AXES: dict[tuple[str, Port], int | None] = {  # of (kind of module, port); what isn't here has time on axis 1
    ("featurizer", 0): 2, ("preprocessor", 0): 2,                                                   # (B, F, T)
    ("mask_processor", "x"): 2, ("mask_processor", 0): 2, ("mask_processor", 1): 2,                 # (B, F, T)
    ("masking", "x"): 2, ("masking", 0): 2, ("masking", 1): 2,                                      # (B, D, S)
    ("quantizer", "x"): 2, ("quantizer", 0): 2,                                                     # (B, C, S, Q)
    ("encoder", "x"): 2, ("encoder", 0): 2,                                                         # (B, D, S)
    ("pos_enc", 1): NO_TIME, ("linear_pos", "x"): NO_TIME, ("linear_pos", 0): NO_TIME,              # (1, 2S-1, D)
    ("pointwise_conv1", "x"): 2, ("pointwise_conv1", 0): 2,                                         # (B, D, S)
    ("pointwise_conv2", "x"): 2, ("pointwise_conv2", 0): 2,
    ("depthwise_conv", "x"): 2, ("depthwise_conv", 0): 2,
    ("batch_norm", 0): 2,
    ("decoder", "x"): 2, ("decoder_layers", "x"): 2, ("decoder_layers", 0): 2,                      # (B, D, S)
    (ROOT, 2): 2,                                                                                   # masks (B, F, T)
    # compared whole: statistics of a batch norm include padding; masks say what padding is
    ("batch_norm", "x"): NO_TIME,
}  # fmt: skip
PORT_AXES: dict[Port, int | None] = {  # of a port of any module
    "positions": NO_TIME, "mask": NO_TIME, "padding": NO_TIME, "mask.mask": NO_TIME, "mask.padding": NO_TIME,
    "lengths": NO_TIME, "masks": 2, "spec_masks": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Axes:
    """nemo: the trace that says how much of an axis is real.  over_time: convolutions whose outputs read neighbours
    of their inputs, so that the padding of these must be right, too."""

    nemo: Trace
    over_time: frozenset[str] = frozenset()

    def real(self, call: Call, port: Port, x: Tensor) -> Tensor:
        """Zeros where `x`, which goes in or out of the call at that port, only stands for padding."""
        axis = self.axis(call.module, port, x)
        lengths = None if axis is None else self.lengths(call.phase, x.shape[axis])
        if lengths is None or len(lengths) != len(x):
            return x
        shape = [len(x), *(x.shape[axis] if i == axis else 1 for i in range(1, x.dim()))]
        return x.masked_fill((torch.arange(x.shape[axis]) >= lengths[:, None]).view(shape), 0)

    def axis(self, module: str, port: Port, x: Tensor) -> int | None:
        """None where there is none, or where padding counts."""
        if x.dim() < 2 or (module in self.over_time and port == "x"):
            return None
        if port in PORT_AXES:
            return PORT_AXES[port]
        kind = "encoder" if module == ROOT and self.is_encoder else kind_of(module)
        if kind == "conv" and x.dim() == 4:
            return 2  # (B, C, T, F) in the subsampling
        return AXES.get((kind, port), 1)

    @property
    def is_encoder(self) -> bool:
        """True where the outermost module is an encoder."""
        return any(call.module == "pre_encode" for call in self.nemo.calls)

    def lengths(self, phase: str, size: int) -> Tensor | None:
        """(B,): how much of an axis of this size is real, in front of, within or behind the subsampling."""
        name = next((c.module for c in self.nemo.calls if c.module.endswith("pre_encode")), "")
        call = self.nemo.find(phase, name)
        if call is None:
            return None
        frames = self.nemo.input(call, "lengths")
        if frames is None:  # without subsampling there is nothing but a projection
            return None
        steps = self.nemo.output(call, 1)
        widest_frames, widest_steps = self.nemo.input(call, "x").shape[1], self.nemo.output(call, 0).shape[1]
        if size in (widest_steps, widest_frames):
            return steps if size == widest_steps else frames
        return None if size > widest_frames else (frames * size // widest_frames - 1).clamp(min=0)


def kind_of(module: str) -> str:
    """The last name in a dotted one that isn't a number."""
    return next(part for part in reversed(module.split(".")) if not part.isdecimal())


def aligned(got: Tensor, expected: Tensor) -> Tensor:
    """`got` in the shape of `expected` where only axes of size 1 tell them apart."""
    sizes = [[size for size in x.shape if size != 1] for x in (got, expected)]
    return got.reshape(expected.shape) if sizes[0] == sizes[1] else got
