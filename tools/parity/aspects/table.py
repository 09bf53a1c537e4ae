"""What is compared, in the order of the report: each aspect is measured on both sides, and then compared."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tools.parity.aspects import computation, configuration, data, files, masks, parameters, shipped_config
from tools.parity.records import Measured, Record
from tools.parity.rows import NOT_RUN, Row
from tools.parity.side import Side, origin

CANT_BUILD = "NeMo itself can't build this model, so there is nothing to compare with"


@dataclass(frozen=True)
class Aspect:
    """measure: run on each side.  compare: (ours, NeMo's) -> rows."""

    measure: Callable[[Side], Measured]
    compare: Callable[[Record, Record], Iterator[Row]]


ASPECTS: dict[str, Aspect] = {
    "shipped_config": Aspect(shipped_config.measure, shipped_config.compare),
    "configuration": Aspect(configuration.measure, configuration.compare),
    "parameters": Aspect(parameters.measure, parameters.compare),
    "computation": Aspect(computation.measure, computation.compare),
    "masks": Aspect(masks.measure, masks.compare),
    "data": Aspect(data.measure, data.compare),
    "files": Aspect(files.measure, files.compare),
}


def measure(side: Side) -> Record:
    """All aspects of the side's job."""
    measured = {name: ASPECTS[name].measure(side) for name in side.job.aspects}
    return Record(side.job, origin(side.name), measured)


def compare(ours: Record, nemo: Record) -> Iterator[Row]:
    if nemo.raised:
        yield Row("computation", "NeMo raised", NOT_RUN, reason=CANT_BUILD, detail=nemo.raised)
    for name in nemo.job.aspects:
        yield from ASPECTS[name].compare(ours, nemo)
