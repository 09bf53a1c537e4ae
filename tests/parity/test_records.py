"""Small records of NeMo 3.0.0, kept by `tools/compare_with_nemo.py --record`: our models with its weights compute the
same, level by level, from synthetic speech to parameters after five optimizer steps."""

import json

import pytest
import torch

from tools.parity.aspects.computation import levels_of
from tools.parity.cases import CASES
from tools.parity.compare import compare_with
from tools.parity.comparison import TOLERANCES, compare_levels, first_difference
from tools.parity.jobs import kept_job
from tools.parity.levels import LEVELS
from tools.parity.records import RECORDS, kept

ENTRANCE = ("input_gradient/", "gradient/pre_encode.", "gradient/encoder.pre_encode.")


@pytest.mark.parametrize("name", CASES)
def test_everything_equals_nemos(name, tmp_path):
    comparison = compare_with(kept(name), tmp_path)
    assert comparison.failed == []
    assert comparison.passed


def test_records_are_of_the_jobs_of_today_and_say_who_made_them():
    assert {path.stem for path in RECORDS.glob("*.safetensors")} == set(CASES)
    for name, case in CASES.items():
        record, job = kept(name), kept_job(name)
        assert (record.job.case.class_path, record.job.case.config) == (
            case.class_path,
            json.loads(json.dumps(case.config)),
        )
        assert (record.job.aspects, record.job.steps) == (job.aspects, job.steps)
        assert record.origin["nemo_version"] == "3.0.0"
        assert record.origin["script"] == "tools/compare_with_nemo.py"
        assert {"torch_version", "seed"} <= set(record.origin)


def test_records_are_small():
    assert sum(path.stat().st_size for path in RECORDS.iterdir()) < 11_000_000


@pytest.mark.parametrize("name", CASES)
def test_the_entrance_of_a_record_is_alive(name):
    """Dead ReLUs would hide what stands before them."""
    gradients = {k: v for k, v in levels_of(kept(name)).items() if k.startswith(ENTRANCE)}
    assert [name for name, value in gradients.items() if not value.any()] == []


def test_the_records_hold_every_level():
    recorded = {name.split("/")[0] for case in CASES for name in levels_of(kept(case))}
    assert recorded == set(LEVELS) == set(TOLERANCES)


@pytest.mark.parametrize("level", LEVELS)
def test_a_difference_is_named_by_the_first_level_that_has_one(level):
    expected = next(levels for levels in (levels_of(kept(case)) for case in CASES) if has(levels, level))
    names = [f"{row.level}/{row.what}" for row in compare_levels(expected, expected)]
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
