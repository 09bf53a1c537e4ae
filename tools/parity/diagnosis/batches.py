"""Our training step computes the features of clean and of noisy speech in one call, NeMo in two."""

from dataclasses import replace

from torch import Tensor

from tools.parity.trace import Call, Trace


def one_by_one(ours: Trace, nemo: Trace) -> Trace:
    """Our trace with each call that takes the batches of several of NeMo's as one call per batch."""
    calls, blobs = [], dict(ours.blobs)
    for call in ours.calls:
        sizes = joined_batches(call, ours, nemo)
        if not sizes:
            calls.append(call)
            continue
        keys = {key for key in (*call.inputs.values(), *call.outputs) if key in blobs}
        for i in range(len(sizes)):
            blobs |= {f"{key}/{i}": batch_of(blobs[key], sizes, i) for key in keys}
            inputs = {port: f"{key}/{i}" for port, key in call.inputs.items() if key in keys}
            calls.append(replace(call, count=i + 1, inputs=inputs, outputs=[f"{key}/{i}" for key in call.outputs]))
    return replace(ours, calls=calls, blobs=blobs)


def joined_batches(call: Call, ours: Trace, nemo: Trace) -> list[int]:
    """Sizes of the batches in NeMo's calls of the module if it is called once here, with all of them; else none."""
    mine, theirs = (
        [
            trace.output(c).shape[:1]
            for c in trace.calls
            if (c.phase, c.module) == (call.phase, call.module) and c.outputs
        ]
        for trace in (ours, nemo)
    )
    sizes = [size for shape in theirs for size in shape]
    return sizes if len(sizes) > 1 and mine == [(sum(sizes),)] else []


def batch_of(x: Tensor, sizes: list[int], index: int) -> Tensor:
    """One of the batches joined in `x`; `x` itself where none are."""
    return x.split(sizes)[index] if x.shape[:1] == (sum(sizes),) else x
