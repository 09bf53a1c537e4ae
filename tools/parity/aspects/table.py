"""What is compared, in the order of the report: each aspect is measured on both sides, and then compared."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tools.parity.aspects import (
    computation,
    configuration,
    data,
    files,
    initial_weights,
    masks,
    parameters,
    shipped_config,
)
from tools.parity.records import Measured, Record
from tools.parity.rows import BROKEN, FAILED, Row
from tools.parity.side import Side, origin

CANT_BUILD = "NeMo itself can't build this model, so there is nothing to compare with"


@dataclass(frozen=True)
class Aspect:
    """measure: run on each side.  compare: (ours, NeMo's) -> rows."""

    measure: Callable[[Side], Measured]
    compare: Callable[[Record, Record], Iterator[Row]]


RAISED = "raised in an aspect"

ASPECTS: dict[str, Aspect] = {
    "shipped_config": Aspect(shipped_config.measure, shipped_config.compare),
    "configuration": Aspect(configuration.measure, configuration.compare),
    "parameters": Aspect(parameters.measure, parameters.compare),
    "initial_weights": Aspect(initial_weights.measure, initial_weights.compare),
    "computation": Aspect(computation.measure, computation.compare),
    "masks": Aspect(masks.measure, masks.compare),
    "data": Aspect(data.measure, data.compare),
    "files": Aspect(files.measure, files.compare),
}


def measure(side: Side) -> Record:
    """All aspects of the side's job."""
    measured = {name: attempt(name, side) for name in side.job.aspects}
    return Record(side.job, origin(side.name), measured)


def attempt(name: str, side: Side) -> Measured:
    """What raises is noted, and the other aspects go on."""
    try:
        return ASPECTS[name].measure(side)
    except Exception as error:
        return Measured(facts={RAISED: f"{type(error).__name__}: {error}"})


def compare(ours: Record, nemo: Record) -> Iterator[Row]:
    """An aspect in which our side raises is one that differs; where NeMo's does, there is nothing to compare with."""
    if nemo.raised:
        yield computation.nemo_raised(computation.NAME, nemo.job.case, nemo.raised, CANT_BUILD)
    for name in nemo.job.aspects:
        if name not in nemo.measured:
            yield Row(name, "NeMo's side", BROKEN, reason="the record lacks it")
            continue
        there, here = (record.measured[name].facts.get(RAISED) for record in (nemo, ours))
        if there:
            yield computation.nemo_raised(name, nemo.job.case, there, "there is nothing to compare with")
        elif here:
            yield Row(name, "ours raised", FAILED, reason="NeMo runs this", detail=here)
        else:
            yield from ASPECTS[name].compare(ours, nemo)
