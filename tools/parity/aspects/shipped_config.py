"""config/nest_fast-conformer.yaml, key by key, against NeMo's file of that name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tools.parity.aspects.options import ABSENT, LEVEL, compare_value
from tools.parity.records import Measured, Record
from tools.parity.rows import KNOWN, Row
from tools.parity.side import Side

NAME = "shipped_config"
SHIPPED = Path(__file__).resolve().parents[3] / "config" / "nest_fast-conformer.yaml"
NEMOS = Path(__file__).with_name("nemo_nest_fast-conformer.json")  # says where it is from
COMPOSITION = "defaults"  # Hydra's: which other files belong to it
ANYWHERE = "so that the file runs on any machine: "
EXCEPTIONS: dict[str, tuple[Any, str]] = {  # our value, and why it isn't NeMo's
    "trainer.strategy": ("auto", ANYWHERE + "ddp on several devices, no process group on one"),
    "trainer.devices": ("auto", ANYWHERE + "all GPUs, or one process"),
    "model.train_ds.num_workers": (0, ANYWHERE + "loads in the training process"),
    "model.validation_ds.num_workers": (0, ANYWHERE + "loads in the training process"),
    "trainer.check_val_every_n_epoch": (None, "validation counts steps of the optimizer, also across short epochs"),
    "model.validation_ds.manifest_filepath": (None, "a run without validation goes by its training loss"),
}
OUR_OWN = "not in NeMo's file; it stands at the value that changes nothing"


def measure(side: Side) -> Measured:
    """facts: dotted key -> value, references unresolved. NeMo's packages don't hold its file: a copy stands here."""
    if side.is_nemo:
        return Measured(facts=dict(leaves(json.loads(NEMOS.read_text(encoding="utf-8"))["config"])))
    config = OmegaConf.to_container(OmegaConf.load(SHIPPED), resolve=False)
    del config[COMPOSITION]
    return Measured(facts=dict(leaves(config)))


def leaves(tree: dict, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def compare(ours: Record, nemo: Record) -> Iterator[Row]:
    """A row for each key of either file."""
    got, expected = ours.measured[NAME].facts, nemo.measured[NAME].facts
    for key in dict.fromkeys([*expected, *got]):
        yield compare_key(key, got.get(key, ABSENT), expected.get(key, ABSENT))


def compare_key(key: str, ours: Any, nemo: Any) -> Row:
    what = f"{SHIPPED.name}: {key}"
    if nemo is ABSENT:
        return Row(LEVEL, what, KNOWN, reason=OUR_OWN, detail=repr(ours))
    if key in EXCEPTIONS and ours != nemo and ours == EXCEPTIONS[key][0]:
        return Row(LEVEL, what, KNOWN, reason=EXCEPTIONS[key][1], detail=f"{ours!r} instead of {nemo!r}")
    return compare_value(what, ours, nemo)
