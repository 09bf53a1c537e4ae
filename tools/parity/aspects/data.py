"""Items and batches of a manifest, noise and mixing: what the data sets of both sides give of the same files.

What nothing is drawn for is compared sample by sample (decoding, resampling, places, channels, trimming, bounds of
durations, order, padding, lengths, mixing that is determined); what is drawn, as a distribution over many draws.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.parity.cases import SEED, Levels, seed_everything
from tools.parity.data import mixing, noises
from tools.parity.data.files import Files, make_files
from tools.parity.data.reading import read, said, step_of
from tools.parity.data.scene_rows import compare_scene, raised_row
from tools.parity.data.scenes import (
    NUM_BATCHES,
    NUM_ITEMS,
    SCENES,
    YOURS,
    Scene,
    sample_rate_of,
    section_of,
    user_section,
)
from tools.parity.records import Measured, Record, below
from tools.parity.rows import BROKEN, NOT_RUN, Row
from tools.parity.side import Side

NAME = "data"
Draws = Callable[[Side, Files], Levels]
DRAWN: dict[str, tuple[Draws, Callable[[Levels, Levels], Iterator[Row]], str]] = {
    "noises": (noises.measure, noises.compare, noises.MODULE),
    "mixing": (lambda side, files: mixing.measure(side, step_of(side.job)), mixing.compare, mixing.MODULE),
}


def measure(side: Side) -> Measured:
    """Files are written on each side, as a record of NeMo's is compared where NeMo's folder is gone."""
    with without_infos():
        return measure_all(side)


@contextmanager
def without_infos() -> Iterator[None]:
    """Data sets tell how many utterances they keep, each time."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.INFO))
    try:
        yield
    finally:
        logging.disable(disabled)


def measure_all(side: Side) -> Measured:
    seed_everything(SEED)
    files = make_files(side.folder / "data" / side.name, sample_rate_of(side), side.job.inputs)
    tensors, facts = {}, {}
    readings = {
        name: read(side, section_of(scene, files), scene.num_items, scene.num_batches) for name, scene in SCENES.items()
    }
    if side.job.manifest is not None and Path(side.job.manifest).is_file():
        readings[YOURS] = read(side, user_section(side), NUM_ITEMS, NUM_BATCHES)
    for name, reading in readings.items():
        tensors |= {f"{name}/{key}": value for key, value in reading.tensors.items()}
        facts |= {f"{name}/{key}": value for key, value in reading.facts.items()}
    for name, (draw, _, _) in DRAWN.items():
        try:
            tensors |= {f"{name}/{key}": value for key, value in draw(side, files).items()}
        except Exception as error:
            facts[f"{name}/raised"] = said(error)
    return Measured(tensors, facts)


def compare(ours: Record, nemo: Record) -> Iterator[Row]:
    step = step_of(nemo.job)
    for name, scene in SCENES.items():
        yield from compare_scene(name, scene, part(name, ours), part(name, nemo), step, is_users=False)
    if nemo.job.manifest is not None:
        yield from compare_users(part(YOURS, ours), part(YOURS, nemo), step)
        yield from not_compared(nemo)
    for name, (_, compare_draws, module) in DRAWN.items():
        sides = part(name, ours), part(name, nemo)
        raised = [side.facts.get("raised") for side in sides]
        if any(raised):
            yield raised_row(name, *raised, module)
        else:
            yield from compare_draws(*(side.tensors for side in sides))


def compare_users(ours: Measured, nemo: Measured, step: int) -> Iterator[Row]:
    """A user's manifest, which may have been left on the machine where a record was made."""
    if not ours.facts:
        yield Row(NAME, YOURS, NOT_RUN, reason="the manifest isn't here")
        return
    rows = list(compare_scene(YOURS, Scene(YOURS), ours, nemo, step, is_users=True))
    yield from rows
    items = [row for row in rows if row.what.startswith(f"{YOURS} item")]
    if items and all(row.status == NOT_RUN for row in items):
        yield Row(NAME, f"{YOURS}: items", BROKEN, reason="none was compared: NeMo raises for each that was asked for")


def part(name: str, record: Record) -> Measured:
    """What was measured under this name."""
    measured = record.measured[NAME]
    return Measured(below(f"{name}/", measured.tensors), below(f"{name}/", measured.facts))


def not_compared(nemo: Record) -> Iterator[Row]:
    """Keys of a user's data section that say what is drawn, and no sample of an item."""
    if (nemo.job.case.config.get("train_ds") or {}).get("augmentor"):
        reason = "its draws differ; tests/parity/test_perturb_against_nemo.py compares them one by one"
        yield Row("data", "train_ds.augmentor", NOT_RUN, reason=reason)
