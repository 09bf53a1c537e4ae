"""From `model.optim.sched` to Lightning's dict."""

import pytest
import torch
from omegaconf import OmegaConf

from core.optim.lr_scheduler import SCHEDULERS
from core.optim.schedulers import build_scheduler
from utils.checkpoint_files.checkpoint_file import load_checkpoint, save_checkpoint

ARGUMENTS = {  # what a schedule can't do without
    "NoamAnnealing": {"d_model": 64, "warmup_steps": 3},
    "NoamHoldAnnealing": {"warmup_steps": 3},
    "T5InverseSquareRootAnnealing": {"constant_steps": 3},
    "StepLR": {"step_size": 4},
    "MultiStepLR": {"milestones": [3, 6]},
    "ExponentialLR": {"gamma": 0.5},
    "CosineAnnealingLR": {"T_max": 10},
    "CosineAnnealingWarmRestarts": {"T_0": 5},
    "CyclicLR": {"base_lr": 1e-4, "max_lr": 1e-2, "step_size_up": 5},
    "OneCycleLR": {"max_lr": 1e-2, "total_steps": 20},
    "ReduceLROnPlateau": {"monitor": "train_loss", "patience": 0},
    "WarmupPolicy": {"warmup_steps": 3},
    "WarmupHoldPolicy": {"warmup_steps": 3},
}


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3, momentum=0.9)


def build(max_steps: int | None = None, **config) -> dict:
    return build_scheduler(sgd(), OmegaConf.create(config), max_steps=max_steps)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_schedule_is_built_by_name_and_changes_the_rate(name):
    optimizer = sgd()
    config = OmegaConf.create({"name": name, **ARGUMENTS.get(name, {})})
    schedule = build_scheduler(optimizer, config, max_steps=10)["scheduler"]
    rates = set()
    for _ in range(12):
        rates.add(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step(*([1.0] if name == "ReduceLROnPlateau" else []))
    assert len(rates) > 1


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_schedule_is_saved_and_goes_on_where_it_stood(name, tmp_path):
    """MultiStepLR's state holds a collections.Counter."""
    config = OmegaConf.create({"name": name, **ARGUMENTS.get(name, {})})
    optimizers = sgd(), sgd()
    first, second = (build_scheduler(one, config, max_steps=10)["scheduler"] for one in optimizers)
    metric = [1.0] if name == "ReduceLROnPlateau" else []
    for _ in range(4):
        optimizers[0].step()
        first.step(*metric)
    save_checkpoint({"optimizer": optimizers[0].state_dict(), "schedule": first.state_dict()}, tmp_path / "x.ckpt")
    content = load_checkpoint(tmp_path / "x.ckpt")
    optimizers[1].load_state_dict(content["optimizer"])
    second.load_state_dict(content["schedule"])
    for _ in range(4):
        for optimizer, schedule in zip(optimizers, (first, second)):
            optimizer.step()
            schedule.step(*metric)
        assert optimizers[0].param_groups[0]["lr"] == optimizers[1].param_groups[0]["lr"]


def test_the_trainers_steps_win_over_the_configs():
    config = OmegaConf.create({"name": "CosineAnnealing", "max_steps": 50})
    assert build_scheduler(sgd(), config)["scheduler"].max_steps == 50
    assert build_scheduler(sgd(), config, max_steps=70)["scheduler"].max_steps == 70
    assert build_scheduler(sgd(), config, planned_steps=70)["scheduler"].max_steps == 50


@pytest.mark.parametrize("unknown", [None, -1])
def test_null_and_minus_one_leave_max_steps_open(unknown):
    config = OmegaConf.create({"name": "CosineAnnealing", "max_steps": unknown})
    assert build_scheduler(sgd(), config, max_steps=7)["scheduler"].max_steps == 7
    assert build_scheduler(sgd(), config, planned_steps=7)["scheduler"].max_steps == 7
    with pytest.raises(ValueError, match=r"^model.optim.sched: max_steps is not known: set trainer.max_steps"):
        build_scheduler(sgd(), config)


def test_noam_needs_no_max_steps():
    assert build(name="NoamAnnealing", d_model=64, warmup_steps=5)["scheduler"].max_steps is None


def test_arguments_may_stand_under_args():
    assert build(max_steps=9, name="WarmupAnnealing", args={"warmup_steps": 4})["scheduler"].warmup_steps == 4


@pytest.mark.parametrize(("name", "interval"), [("StepLR", "step"), ("ExponentialLR", "epoch"), ("CyclicLR", "step")])
def test_torch_schedules_step_when_nemos_do_unless_told_otherwise(name, interval):
    assert build(name=name, **ARGUMENTS[name])["interval"] == interval
    told = build(name=name, interval="epoch", frequency=3, **ARGUMENTS[name])
    assert (told["interval"], told["frequency"]) == ("epoch", 3)


def test_reduce_on_plateau_follows_its_metric_by_epoch():
    built = build(name="ReduceLROnPlateau", monitor="val_loss", reduce_on_plateau=True)
    assert (built["monitor"], built["interval"], built["reduce_on_plateau"]) == ("val_loss", "epoch", True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "CosineAnealing"}, "sched.name='CosineAnealing' is not a scheduler; did you mean 'CosineAnnealing"),
        ({"name": "LambdaLR"}, "model.optim.sched.name='LambdaLR' can't be written in a config .*: choose another"),
        ({"warmup_steps": 3}, "model.optim.sched.name is missing: name a scheduler, or remove model.optim.sched"),
        ({"name": "NoamAnnealing", "d_model": 8, "warmup_step": 3}, "sched.warmup_step is not .* did you mean 'w"),
        ({"name": "CosineAnnealing", "d_model": 8, "max_steps": 9}, "sched.d_model is not an option of Cosine"),
        ({"name": "NoamAnnealing", "warmup_steps": 3}, "model.optim.sched.d_model is missing: NoamAnnealing needs it"),
        ({"name": "StepLR"}, "model.optim.sched.step_size is missing: StepLR needs it"),
        ({"name": "StepLR", "step_size": 3, "max_steps": 9}, "model.optim.sched.max_steps is not an option of StepLR"),
        ({"name": "WarmupPolicy", "warmup_steps": 3, "warmup_ratio": 0.1, "max_steps": 9}, "are both given: set one"),
        ({"name": "ReduceLROnPlateau"}, "model.optim.sched.monitor is missing: name the metric"),
        ({"name": "WarmupPolicy", "monitor": "val_loss"}, "sched.monitor='val_loss' has no effect on WarmupPolicy"),
        ({"name": "WarmupPolicy", "reduce_on_plateau": True}, "sched.reduce_on_plateau must be false for WarmupPolicy"),
        ({"name": "WarmupPolicy", "interval": "batch"}, "sched.interval='batch' is not one of step, epoch"),
        ({"name": "CyclicLR", "base_lr": 1, "max_lr": 2, "mode": "x"}, "^model.optim.sched: mode is invalid"),
        ({"name": "WarmupPolicy", "warmup_steps": "???"}, "model.optim.sched: Missing mandatory value: warmup_steps"),
    ],
)
def test_a_wrong_config_is_one_line_with_its_path(config, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_scheduler(sgd(), OmegaConf.create(config))
    assert "\n" not in str(caught.value)
