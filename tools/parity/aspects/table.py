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
from tools.parity.rows import FAILED, NOT_RUN, Row
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
    """An aspect in which our side raises is one that differs; where NeMo's does, there is nothing to compare with."""
    try:
        return ASPECTS[name].measure(side)
    except Exception as error:
        if side.is_nemo:
            raise
        return Measured(facts={RAISED: f"{type(error).__name__}: {error}"})


def compare(ours: Record, nemo: Record) -> Iterator[Row]:
    if nemo.raised:
        yield Row("computation", "NeMo raised", NOT_RUN, reason=CANT_BUILD, detail=nemo.raised)
    for name in nemo.job.aspects:
        raised = ours.measured[name].facts.get(RAISED)
        if raised:
            yield Row(name, "ours raised", FAILED, reason="NeMo runs this", detail=raised)
        else:
            yield from ASPECTS[name].compare(ours, nemo)
