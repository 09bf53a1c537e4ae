"""Small records of NeMo 3.0.0, made by tools/record_parity.py: our models with its weights compute the same, level by
level, from synthetic speech to parameters after five optimizer steps."""

import json

import pytest
import torch

from tools.parity.cases import CASES
from tools.parity.comparison import TOLERANCES, errors, first_difference
from tools.parity.levels import LEVELS
from tools.parity.records import RECORDS, read_record


@pytest.mark.parametrize("name", CASES)
def test_every_level_equals_nemos(name):
    record = read_record(name)
    assert first_difference(record.measure_ours(), record.levels) is None


def test_records_are_of_the_cases_of_today_and_say_who_made_them():
    assert {path.stem for path in RECORDS.glob("*.safetensors")} == {*CASES, "inputs_encoder", "inputs_model"}
    for name, case in CASES.items():
        record = read_record(name)
        assert (record.case.class_path, record.case.config) == (case.class_path, json.loads(json.dumps(case.config)))
        assert record.origin["nemo_version"] == "3.0.0"
        assert record.origin["script"] == "tools/record_parity.py"
        assert {"torch_version", "seed"} <= set(record.origin)


def test_records_are_small():
    assert sum(path.stat().st_size for path in RECORDS.iterdir()) < 3_000_000


def test_the_records_hold_every_level():
    recorded = {name.split("/")[0] for case in CASES for name in read_record(case).levels}
    assert recorded == set(LEVELS) == set(TOLERANCES)


@pytest.mark.parametrize("level", LEVELS)
def test_a_difference_is_named_by_the_first_level_that_has_one(level):
    expected = next(levels for levels in (read_record(case).levels for case in CASES) if has(levels, level))
    names = [name for name, _ in errors(expected, expected)]
    first = next(i for i, name in enumerate(names) if name.startswith(f"{level}/"))
    got = expected | {name: wrong(expected[name]) for name in names[first:]}
    assert first_difference(expected, expected) is None
    assert first_difference(got, expected).startswith(f"{names[first]} differs")


def has(levels: dict[str, torch.Tensor], level: str) -> bool:
    return any(name.startswith(f"{level}/") for name in levels)


def wrong(tensor: torch.Tensor) -> torch.Tensor:
    """One count too many, or 3 % too much."""
    return tensor * 1.03 if tensor.is_floating_point() else tensor + 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_differs(value):
    expected = {"loss/loss": torch.tensor(1.0)}
    assert first_difference({"loss/loss": torch.tensor(value)}, expected)


def test_what_is_missing_or_too_much_differs():
    expected = {"loss/loss": torch.tensor(1.0)}
    assert first_difference({}, expected).startswith("loss/loss differs by inf")
    assert first_difference(expected | {"gradient/x": torch.tensor(1.0)}, expected).startswith("gradient/x is there")
