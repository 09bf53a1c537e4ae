"""As much of Weights & Biases as Lightning's logger and ours touch, for tests that run without the package."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest


class Run:
    name, _attach_id = "a run", "a"

    def __init__(self, run_id: str):
        self.id = run_id


@pytest.fixture
def wandb(monkeypatch):
    """`started`: ids that runs were asked for; `asked`: how login was called; `answers`, `mode`: what it says."""
    fake = ModuleType("wandb")
    fake.started, fake.asked, fake.answers, fake.mode, fake.run = [], [], False, "online", None
    fake.require = lambda name: None
    fake.setup = lambda: SimpleNamespace(settings=SimpleNamespace(mode=fake.mode))

    def init(project=None, name=None, dir=None, id=None, resume=None, mode=None, anonymous=None, tags=None):
        fake.started.append(id)
        return Run(id or f"made-up-{len(fake.started)}")

    def login(key=None, verify=True, prompt=True):
        fake.asked.append((verify, prompt))
        return fake.answers

    fake.init, fake.login = init, login
    parts = {
        "wandb.sdk": SimpleNamespace(),
        "wandb.sdk.lib": SimpleNamespace(RunDisabled=type("RunDisabled", (), {})),
        "wandb.wandb_run": SimpleNamespace(Run=Run),
    }
    for name, part in {"wandb": fake, **parts}.items():
        monkeypatch.setitem(sys.modules, name, part)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "spec" if name == "wandb" else find_spec(name))
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    return fake
