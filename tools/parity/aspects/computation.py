"""Features to parameters after the last optimizer step: what a model computes from the same weights and inputs."""

from collections.abc import Iterator
from dataclasses import replace

from tools.parity.comparison import compare_levels
from tools.parity.levels import measure as measure_levels
from tools.parity.records import Measured, Record, copy_weights
from tools.parity.rows import FAILED, KNOWN, NOT_RUN, Row
from tools.parity.side import Side
from tools.parity.ties import settle_ties
from tools.parity.trace import Trace

NAME = "computation"
BLOB = "blob/"  # prefix of what the trace keeps


def measure(side: Side) -> Measured:
    """Levels and trace. What raises is noted, with the module in which it did; what came before it stays."""
    levels, trace, facts = {}, Trace(brief=side.job.brief_trace), {"repairs": side.repairs, "classes": {}}
    try:
        module = side.fresh()
        facts["classes"] = class_names(module)
        copy_weights(side.job.start, module)
        measure_levels(side.case, module, side.job.inputs, levels, trace, side.job.until)
    except Exception as error:
        facts["raised"] = f"{type(error).__name__}: {error}"
    facts["trace"] = trace.to_json()
    return Measured(levels | {BLOB + key: tensor for key, tensor in trace.blobs.items()}, facts)


def class_names(module) -> dict[str, str]:
    """Dotted module name -> where its class is."""
    return {name: f"{type(part).__module__}.{type(part).__qualname__}" for name, part in module.named_modules()}


def levels_of(record: Record) -> dict:
    return {k: v for k, v in record.measured[NAME].tensors.items() if not k.startswith(BLOB)}


def trace_of(record: Record) -> Trace:
    measured = record.measured[NAME]
    blobs = {k.removeprefix(BLOB): v for k, v in measured.tensors.items() if k.startswith(BLOB)}
    return Trace.from_json(measured.facts["trace"], blobs)


def compare(ours: Record, nemo: Record) -> Iterator[Row]:
    """A row for each tensor that NeMo's side computed, in the order of the computation."""
    got, expected = levels_of(ours), levels_of(nemo)
    raised_here, raised_there = (record.measured[NAME].facts.get("raised") for record in (ours, nemo))
    if raised_there:
        got = {name: tensor for name, tensor in got.items() if name in expected}
    missing = () if raised_here is None else set(expected) - set(got)
    for row in settle_ties(compare_levels(got, expected), got, expected, nemo.job, trace_of(nemo)):
        lost = f"{row.level}/{row.what}" in missing
        yield replace(row, status=NOT_RUN, error=0.0, reason="ours raised before", detail="") if lost else row
    for repair in nemo.measured[NAME].facts.get("repairs", ()):
        yield Row("computation", "NeMo repaired", KNOWN, reason=repair)
    if raised_there:
        yield Row(
            "computation", "NeMo raised", NOT_RUN, reason="nothing to compare with from here", detail=raised_there
        )
    elif raised_here:
        yield Row("computation", "ours raised", FAILED, reason="NeMo runs this", detail=raised_here)
