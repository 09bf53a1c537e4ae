"""Optimizers by name."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from core.optim.optimizers import OPTIMIZERS, UNUSABLE, build_optimizer

RECORD = json.loads((Path(__file__).parent / "nemo_3_0_0.json").read_text(encoding="utf-8"))["optimizers"]
RECORDS = [pytest.param(r["name"], r["arguments"], r["weights"], id=f"{r['name']}-{i}") for i, r in enumerate(RECORD)]


def weights_after_ten_steps(name: str, arguments: dict) -> torch.Tensor:
    weight = nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3))
    bias = nn.Parameter(torch.tensor([0.5, -0.25]))
    optimizer = build_optimizer([weight, bias], {"name": name, **arguments})
    for i in range(10):
        optimizer.zero_grad()
        x = torch.linspace(-1, 2, 3) * (1 + i % 3)
        (torch.tanh(weight @ x) * bias).sum().backward()
        optimizer.step()
    return torch.cat([weight.detach().flatten(), bias.detach()])


@pytest.mark.parametrize(("name", "arguments", "expected"), RECORDS)
def test_weights_are_nemos(name, arguments, expected):
    torch.testing.assert_close(weights_after_ten_steps(name, arguments), torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_a_loss_and_leaves_frozen_parameters_alone(name):
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    codes = nn.Parameter(torch.ones(5, dtype=torch.float64), requires_grad=False)
    optimizer = build_optimizer([*layer.parameters(), codes], {"name": name})
    x, y = torch.randn(16, 4), torch.randn(16, 3)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (layer(x) - y).square().mean()
        loss.backward()
        return loss

    before = closure().item()
    for _ in range(30):
        optimizer.step(closure)
    assert closure().item() < before
    assert torch.equal(codes, torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_without_gradients_changes_no_weight_and_no_state(name):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = build_optimizer([parameter], {"name": name} | ({"max_grad_norm": 1.0} if name == "adan" else {}))
    parameter.grad = torch.ones(3)
    optimizer.step(lambda: torch.tensor(1.0))
    before, weights = repr(optimizer.state_dict()), parameter.detach().clone()
    parameter.grad = None
    optimizer.step(lambda: torch.tensor(1.0))
    state = repr(optimizer.state_dict())
    assert torch.equal(parameter, weights)
    assert state == before or name == "lbfgs"  # which counts its looks


@pytest.mark.parametrize("name", ["novograd", "adan"])
def test_a_step_leaves_the_gradients_as_they_are(name):
    parameter = nn.Parameter(torch.ones(3))
    options = {"max_grad_norm": 0.1} if name == "adan" else {"weight_decay": 0.1}
    optimizer = build_optimizer([parameter], {"name": name, **options})
    parameter.grad = torch.tensor([1.0, 2.0, 3.0])
    optimizer.step()
    assert parameter.grad.tolist() == [1.0, 2.0, 3.0]


def test_every_optimizer_of_torch_is_here_or_refused_with_a_reason():
    public = {
        name.lower()
        for name, cls in vars(torch.optim).items()
        if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)
    }
    assert public - {"optimizer"} <= set(OPTIMIZERS) | set(UNUSABLE)


def test_arguments_stand_beside_the_name_or_under_args():
    parameters = [nn.Parameter(torch.zeros(1))]
    beside = OmegaConf.create({"name": "adamw", "lr": 0.1, "betas": [0.9, 0.98], "sched": {"name": "x"}})
    under = OmegaConf.create({"name": "adamw", "lr": 0.1, "args": {"betas": [0.9, 0.98]}})
    older = OmegaConf.create({"name": "adamw", "lr": 0.1, "args": {"params": {"betas": [0.9, 0.98]}}})
    for config in (beside, under, older):
        group = build_optimizer(parameters, config).param_groups[0]
        assert (group["lr"], group["betas"]) == (0.1, (0.9, 0.98))


def test_no_name_means_adam_and_a_null_rate_the_optimizers_own():
    optimizer = build_optimizer([nn.Parameter(torch.zeros(1))], {"lr": None})
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["lr"] == 1e-3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "adamx"}, "model.optim.name='adamx' is not an optimizer; did you mean 'adam"),
        ({"name": "AdamW", "lr": 1}, "model.optim.name='AdamW' is not an optimizer; did you mean 'adamw'?"),
        ({"name": "adamw", "weight_decy": 0.1}, "model.optim.weight_decy is not .* did you mean 'weight_decay'?"),
        ({"name": "adamw", "args": {"momentum": 1}}, "model.optim.momentum is not an option of AdamW"),
        ({"name": "adamw", "args": {"name": "auto"}}, "model.optim.args.name='auto' stands for NeMo's defaults"),
        ({"name": "adamw", "lr": -1.0}, "model.optim: Invalid learning rate: -1.0"),
        ({"name": "adamw", "lr": "fast"}, "model.optim: "),
        ({"name": "adan", "fused": True}, "model.optim: fused=True needs .*: set fused to false"),
        ({"name": "adan", "betas": [0.9, 0.9]}, "model.optim: betas=.* must be three numbers"),
        ({"name": "sparseadam"}, "model.optim.name='sparseadam' can't train this model: .*; use adamw"),
        ({"name": "muon"}, "model.optim.name='muon' can't train this model: .*; use adamw"),
    ],
)
def test_a_wrong_config_is_one_line_with_its_path(config, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_optimizer([nn.Parameter(torch.zeros(1))], config)
    assert "\n" not in str(caught.value)
