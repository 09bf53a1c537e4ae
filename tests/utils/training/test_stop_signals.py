"""A run that is told to stop ends between two steps, saved, and goes on as if it hadn't."""

import os
import signal
import stat
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import SLURMEnvironment

from tests.utils.training.test_between_steps import Learner
from utils.training.between_steps import BetweenSteps
from utils.training.checkpoints import Checkpoints
from utils.training.stop_signals import StopSignals

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process that is sent a signal"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
BY_STEPS = {"max_steps": 12, "max_epochs": -1, "val_check_interval": 6, "check_val_every_n_epoch": None}


class Signals(Callback):
    """Sends this process a signal amid a training step, or amid a validation."""

    def __init__(self, number: int, step: int, hook: str = "on_before_optimizer_step", times: int = 1):
        self.number, self.step, self.times = number, step, times
        setattr(self, hook, self.send)

    def send(self, trainer: Trainer, *args) -> None:
        if trainer.global_step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


def fit(folder: Path, *callbacks: Callback, checkpoint=None, save_on_sigterm=True, **options) -> Learner:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "accelerator": "cpu", "devices": 1}
    checkpoints = Checkpoints(folder, "{step}", "val_loss", save_top_k=2, save_last=True)
    checkpoints.save_on_sigterm = save_on_sigterm
    model = Learner()
    trainer = Trainer(callbacks=[BetweenSteps(), StopSignals(), *callbacks], **quiet, **BY_STEPS | options)
    trainer.callbacks.append(checkpoints)
    trainer.fit(model, ckpt_path=checkpoint)
    return model


def steps_of(folder: Path) -> int:
    return torch.load(folder / "last.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("hook", ["on_before_optimizer_step", "on_before_zero_grad", "on_train_batch_start"])
def test_a_signal_amid_a_step_ends_the_run_after_it(tmp_path, number, code, hook):
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path, Signals(number, 3, hook))
    assert ended.value.code == code and steps_of(tmp_path) == 4


def test_the_run_goes_on_as_if_it_had_not_been_told(tmp_path):
    whole = fit(tmp_path / "whole")
    with pytest.raises(SystemExit):
        fit(tmp_path / "told", Signals(signal.SIGTERM, 3))
    rest = fit(tmp_path / "told", checkpoint=tmp_path / "told" / "last.ckpt")
    assert rest.seen == whole.seen[4:] and rest.logged_at == whole.logged_at[4:]
    assert rest.validated_at == whole.validated_at
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("told", "whole")]
    assert names[0] == names[1]


def test_a_signal_amid_a_validation_does_not_wait_for_its_end(tmp_path):
    whole = fit(tmp_path / "whole")
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path / "told", Signals(signal.SIGTERM, 6, "on_validation_batch_start"))
    assert ended.value.code == 143 and steps_of(tmp_path / "told") == 6
    rest = fit(tmp_path / "told", checkpoint=tmp_path / "told" / "last.ckpt")
    assert rest.validated_at == whole.validated_at and rest.seen == whole.seen[6:]


def test_a_second_ctrl_c_stops_at_once_and_saves_no_half_step(tmp_path):
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        fit(tmp_path, Signals(signal.SIGINT, 8, times=2))
    assert steps_of(tmp_path) == 6  # of the last validation


def test_sigterm_saves_nothing_if_that_is_not_wanted(tmp_path):
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path, Signals(signal.SIGTERM, 8), save_on_sigterm=False)
    assert ended.value.code == 143 and steps_of(tmp_path) == 6


def test_signals_while_a_checkpoint_is_written_change_nothing_about_it(tmp_path, monkeypatch):
    own = torch.save

    def slow_save(content, file):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        own(content, file)

    monkeypatch.setattr(torch, "save", slow_save)
    with pytest.raises(SystemExit):
        fit(tmp_path)
    monkeypatch.undo()
    assert steps_of(tmp_path) == 7 and not list(tmp_path.glob("*.unfinished"))


def test_handlers_are_those_of_before_when_the_run_is_over(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    fit(tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


SLURM = {"NTASKS": "1", "JOB_ID": "4711", "JOB_NAME": "nest", "PROCID": "0", "LOCALID": "0"}
SCONTROL = """#!/bin/sh
echo "$@" > {0}/told
ls {0}/run >> {0}/told
exit {1}
"""


@pytest.mark.parametrize("works", [True, False])
def test_slurms_signal_saves_and_then_requeues_the_job(tmp_path, monkeypatch, log, works):
    """A stand-in for `scontrol`, which notes what it was told, and which checkpoint was there then."""
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(SCONTROL.format(tmp_path, int(not works)))
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for name, value in SLURM.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path / "run", Signals(signal.SIGUSR1, 3), plugins=[SLURMEnvironment()])
    assert ended.value.code == 128 + signal.SIGUSR1 and steps_of(tmp_path / "run") == 4
    assert (tmp_path / "told").read_text().split() == ["requeue", "4711", "last.ckpt"]
    assert ("requeued SLURM job 4711" in log.text) == works and ("submit the job again" in log.text) != works
    assert not list(tmp_path.glob("hpc_ckpt*"))  # Lightning's own way, amid a step
