"""Schedules by the step: NeMo's numbers, torch's conventions, errors that say what to set."""

import json
import math
from pathlib import Path

import pytest
import torch

from core.optim import lr_scheduler
from core.optim.lr_scheduler import NEMO_SCHEDULERS, SCHEDULERS, UNCONFIGURABLE

RECORD = json.loads((Path(__file__).parent / "nemo_3_0_0.json").read_text(encoding="utf-8"))
RECORDS = [pytest.param(r["name"], r["arguments"], r["rates"], id=f"{r['name']}-{i}")
           for i, r in enumerate(RECORD["schedules"])]  # fmt: skip


def sgd(lr: float = RECORD["lr"], groups: int = 1) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(groups)], lr=lr)


def run(optimizer: torch.optim.Optimizer, schedule, steps: int) -> list[float]:
    """Rate in force at each of the next `steps` optimizer steps."""
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def rates_of(name: str, arguments: dict, steps: int = 200) -> list[float]:
    optimizer = sgd()
    return run(optimizer, getattr(lr_scheduler, name)(optimizer, **arguments), steps)


@pytest.mark.parametrize(("name", "arguments", "expected"), RECORDS)
def test_rates_are_nemos(name, arguments, expected):
    rates = rates_of(name, arguments)
    assert [rates[step] for step in RECORD["steps"]] == pytest.approx(expected, rel=1e-9)


def test_every_nemo_schedule_has_a_record():
    assert {cls.__name__ for cls in NEMO_SCHEDULERS} <= {r["name"] for r in RECORD["schedules"]}


def test_every_schedule_of_torch_is_here_or_refused_with_a_reason():
    public = {
        name
        for name, cls in vars(torch.optim.lr_scheduler).items()
        if isinstance(cls, type) and issubclass(cls, torch.optim.lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert public - {"LRScheduler"} <= set(SCHEDULERS) | set(UNCONFIGURABLE)


def test_noam_peak_of_the_default_config_is_that_of_the_paper():
    optimizer = sgd(lr=5.0)
    schedule = lr_scheduler.NoamAnnealing(optimizer, d_model=512, warmup_steps=25000, min_lr=1e-6)
    rates = [schedule.rate(5.0, step) for step in range(0, 60000, 100)]
    assert max(rates) == schedule.rate(5.0, 25000) == pytest.approx(1.3975e-3, rel=1e-4)


@pytest.mark.parametrize(("name", "arguments", "_"), RECORDS)
def test_a_schedule_goes_on_from_its_saved_state(name, arguments, _):
    straight = rates_of(name, arguments)
    first = sgd()
    schedule = getattr(lr_scheduler, name)(first, **arguments)
    run(first, schedule, 35)
    second = sgd()
    resumed = getattr(lr_scheduler, name)(second, **arguments)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    assert run(second, resumed, 165) == straight[35:]


@pytest.mark.parametrize(("name", "arguments", "_"), RECORDS)
def test_last_epoch_continues_where_it_says(name, arguments, _):
    straight = rates_of(name, arguments)
    optimizer = sgd()
    optimizer.param_groups[0]["initial_lr"] = RECORD["lr"]
    schedule = getattr(lr_scheduler, name)(optimizer, last_epoch=24, **arguments)
    assert run(optimizer, schedule, 100) == straight[25:125]


@pytest.mark.parametrize("name", ["WarmupAnnealing", "CosineAnnealing"])
def test_each_parameter_group_follows_its_own_base_rate(name):
    optimizer = sgd(groups=2)
    optimizer.param_groups[1]["lr"] = 10 * RECORD["lr"]
    schedule = getattr(lr_scheduler, name)(optimizer, max_steps=50, warmup_steps=5)
    run(optimizer, schedule, 20)
    assert optimizer.param_groups[1]["lr"] == pytest.approx(10 * optimizer.param_groups[0]["lr"])


def test_a_constant_ratio_starts_t5_as_its_steps_do():
    by_ratio = rates_of("T5InverseSquareRootAnnealing", {"max_steps": 150, "constant_ratio": 0.1})
    assert by_ratio == rates_of("T5InverseSquareRootAnnealing", {"max_steps": 150, "constant_steps": 15})


@pytest.mark.parametrize("name", ["WarmupHoldAnnealLinear", "PolynomialHoldDecayAnnealing", "CosineAnnealing"])
def test_phases_that_fill_the_whole_run_leave_nothing_to_divide_by(name):
    phase = "constant_steps" if name == "CosineAnnealing" else "hold_steps"
    assert all(math.isfinite(rate) for rate in rates_of(name, {"max_steps": 40, "warmup_steps": 10, phase: 30}, 60))


ALL_NEED_MAX_STEPS = [cls for cls in NEMO_SCHEDULERS if cls.needs_max_steps]


@pytest.mark.parametrize("cls", ALL_NEED_MAX_STEPS)
def test_unknown_max_steps_is_an_error_that_says_what_to_set(cls):
    needed = {"constant_steps": 3} if cls is lr_scheduler.T5InverseSquareRootAnnealing else {"warmup_steps": 3}
    with pytest.raises(ValueError, match=r"^max_steps is not known: set trainer.max_steps.*$"):
        cls(sgd(), **needed)


@pytest.mark.parametrize("phase", ["warmup", "hold", "constant"])
def test_a_phase_given_twice_or_as_a_share_of_nothing_is_an_error(phase):
    cls = lr_scheduler.CosineAnnealing if phase == "constant" else lr_scheduler.WarmupHoldPolicy
    with pytest.raises(ValueError, match=f"{phase}_steps=3 and {phase}_ratio=0.1 are both given: set one"):
        cls(sgd(), max_steps=100, **{f"{phase}_steps": 3, f"{phase}_ratio": 0.1})
    with pytest.raises(ValueError, match=f"{phase}_ratio=0.1 is a share of max_steps: set max_steps"):
        cls(sgd(), **{f"{phase}_ratio": 0.1})
    with pytest.raises(ValueError, match=f"{phase}_steps=-3 must not be negative"):
        cls(sgd(), max_steps=100, **{f"{phase}_steps": -3})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("NoamAnnealing", {"d_model": 64, "min_lr": 1.0}, "min_lr=1.0 is above the optimizer's lr=0.001: lower min_lr"),
        ("CosineAnnealing", {"max_steps": 9, "min_lr": 1.0}, "min_lr=1.0 is above the optimizer's lr=0.001"),
        ("NoamHoldAnnealing", {"max_steps": 9}, "decays from its warm-up: set warmup_steps"),
        ("T5InverseSquareRootAnnealing", {"max_steps": 9}, "constant_steps .* is missing"),
        ("CosineAnnealing", {"max_steps": 0}, "max_steps=0 must be at least 1"),
    ],
)
def test_arguments_that_make_no_schedule_are_refused_at_once(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(lr_scheduler, name)(sgd(), **arguments)


def test_a_cycle_that_never_starts_says_that_it_has_no_effect(monkeypatch):
    said = []
    monkeypatch.setattr(lr_scheduler, "warn_once", said.append)
    arguments = {"max_steps": 40, "warmup_steps": 5, "power": 2.0}
    rates = rates_of("PolynomialDecayAnnealing", arguments, 60)
    assert not said and rates_of("PolynomialDecayAnnealing", {**arguments, "cycle": True}, 60) == rates
    assert said == ["PolynomialDecayAnnealing: cycle has no effect; remove it, or use PolynomialHoldDecayAnnealing"]
