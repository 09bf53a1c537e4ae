"""What a failed comparison is blamed on: a module, and what its mistake looks like."""

import re
from collections.abc import Sequence

from tools.parity.aspects import computation
from tools.parity.cases import LEVELS
from tools.parity.diagnosis.causes import Evidence, likely_cause
from tools.parity.diagnosis.culprit import RAISED, Culprit, Pair
from tools.parity.diagnosis.unseen import Unseen
from tools.parity.records import Record
from tools.parity.rows import FAILED, Row
from tools.parity.trace import ROOT

FORWARD = LEVELS[: LEVELS.index("training_loss")]  # what calls of modules show


def diagnose(ours: Record, nemo: Record, rows: Sequence[Row]) -> tuple[Culprit | None, str]:
    """The first module that diverges, and its likely cause; None and "" where there is none to be told."""
    first = next((row for row in rows if row.status == FAILED), None)
    if first is None or computation.NAME not in nemo.measured:
        return None, ""
    pair = Pair(*map(computation.trace_of, (ours, nemo)), classes_of(ours), ours.job.start)
    culprit = find_culprit(ours, pair, rows, first)
    return culprit, likely_cause(Evidence(ours, nemo, pair, culprit, rows))


def find_culprit(ours: Record, pair: Pair, rows: Sequence[Row], first: Row) -> Culprit | None:
    """By what modules are made of, by their calls, by what raised, by how errors grow, by what fails first."""
    unseen = Unseen(pair, rows, ours.job.case.config.get("optim") or {})
    raised = ours.measured[computation.NAME].facts.get("raised")
    found = pair.culprit() or (raised and (pair.raised_in(raised) or not_built(pair, ours, raised)))
    misbuilt = unseen.misbuilt()
    if misbuilt and not (found and is_within(found.module, misbuilt.module)):
        return misbuilt
    if found:
        return found
    return (pair.amplifier() if first.level in FORWARD else None) or unseen.culprit()


def is_within(module: str, other: str) -> bool:
    return module == other or module.startswith(f"{other}.")


def not_built(pair: Pair, ours: Record, message: str) -> Culprit:
    """Our side raised outside of all modules: when it was built, given its weights, or in a step of training.

    The module is the one whose weights the message names, if it names some.
    """
    named = [name for name in re.findall(r"\w[\w.]*\.\w+", message) if name.rpartition(".")[0] in pair.classes]
    module = named[0].rpartition(".")[0] if named else ROOT
    class_path = pair.class_of(module) or ours.job.case.class_path
    owner = pair.owner_of(module) or class_path
    return Culprit(module or ROOT, class_path, "", float("inf"), message, owner=owner, reason=RAISED)


def classes_of(record: Record) -> dict[str, str]:
    return record.measured[computation.NAME].facts["classes"]
