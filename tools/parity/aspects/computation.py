"""Features to parameters after the last optimizer step: what a model computes from the same weights and inputs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tools.parity.cases import LEVELS, Case
from tools.parity.comparison import compare_levels
from tools.parity.known_limits import known_limit
from tools.parity.levels import measure as measure_levels
from tools.parity.records import Measured, Record, copy_weights
from tools.parity.rows import BROKEN, FAILED, KNOWN, NOT_RUN, PASSED, Row
from tools.parity.side import Side
from tools.parity.ties import settle_ties
from tools.parity.trace import Trace

NAME = "computation"
BLOB = "blob/"  # prefix of what the trace keeps
NEMO_RAISED = "NeMo raised"  # of a row; such a case isn't comparable


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


def nemo_raised(level: str, case: Case, message: str, reason: str) -> Row:
    """That NeMo can't do a thing: a known limit of its, or it broke off, which leaves open what it would have given."""
    limit = known_limit(case, message)
    return Row(level, NEMO_RAISED, NOT_RUN if limit else BROKEN, reason=limit or reason, detail=message)


def is_comparable(nemo: Record, rows: Sequence[Row]) -> bool:
    """Whether NeMo computed to the end, and something of it is equal here; also where nothing is computed at all."""
    if NAME not in nemo.job.aspects:
        return True
    has_raised = any((row.level, row.what) == (NAME, NEMO_RAISED) for row in rows)
    return not has_raised and any(row.level in LEVELS and row.status == PASSED for row in rows)


def is_computed(record: Record) -> bool:
    """Whether there is a trace, which may end where something raised."""
    return NAME in record.measured and "trace" in record.measured[NAME].facts


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
        yield Row(NAME, "NeMo repaired", KNOWN, reason=repair)
    if raised_there:
        yield nemo_raised(NAME, nemo.job.case, raised_there, "nothing to compare with from here")
    elif raised_here:
        yield Row(NAME, "ours raised", FAILED, reason="NeMo runs this", detail=raised_here)
