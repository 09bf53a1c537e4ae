"""What the docs say of keys is so."""

from dataclasses import fields
from pathlib import Path

import yaml

from data.settings import DatasetSettings

ROOT = Path(__file__).resolve().parents[1]


def test_every_key_of_a_data_section_stands_in_the_shipped_one():
    shipped = yaml.safe_load((ROOT / "config" / "nest_fast-conformer.yaml").read_text(encoding="utf-8"))
    assert {field.name for field in fields(DatasetSettings)} <= shipped["model"]["train_ds"].keys()
