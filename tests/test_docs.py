"""What the docs say of keys is so."""

import re
from dataclasses import fields
from pathlib import Path

import yaml

from data.settings import DatasetSettings
from utils.experiment.exp_config import SECTIONS, ExpManagerConfig

ROOT = Path(__file__).resolve().parents[1]


def test_every_key_of_a_data_section_stands_in_the_shipped_one():
    shipped = yaml.safe_load((ROOT / "config" / "nest_fast-conformer.yaml").read_text(encoding="utf-8"))
    assert {field.name for field in fields(DatasetSettings)} <= shipped["model"]["train_ds"].keys()


def test_the_table_of_exp_manager_names_all_that_is_built_and_nothing_else():
    options = {("", field.name) for field in fields(ExpManagerConfig)} - {("", name) for name in SECTIONS}
    options |= {(name, field.name) for name, kind in SECTIONS.items() for field in fields(kind)}
    text = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|([^|]*)\|([^|]*)\|", text.partition("| section of")[2], flags=re.MULTILINE)
    named = [(section.strip(" `"), name) for section, names in rows for name in re.findall(r"`(\w+)`", names)]
    assert sorted(named) == sorted(options)
