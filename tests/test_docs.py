"""What the docs say of keys is so."""

import re
from dataclasses import fields
from pathlib import Path

import yaml

from data.settings import DatasetSettings

ROOT = Path(__file__).resolve().parents[1]


def test_the_keys_that_take_a_plus_are_marked():
    marked = re.findall(r"`(\w+)` \*\*\+\*\*", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"))
    shipped = yaml.safe_load((ROOT / "config" / "nest_fast-conformer.yaml").read_text(encoding="utf-8"))
    known = {field.name for field in fields(DatasetSettings)}
    assert sorted(marked) == sorted(known - shipped["model"]["train_ds"].keys())
