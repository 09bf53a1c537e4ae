"""Every checkpoint that a Trainer of `build_trainer` reads or writes goes through `WholeCheckpoints`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from omegaconf import OmegaConf

from tests.utils.tiny_run import TinyModel
from utils.checkpoint_files import checkpoint_io
from utils.checkpoint_files.checkpoint_file import BadCheckpoint
from utils.checkpoint_files.checkpoint_io import WholeCheckpoints
from utils.trainer import build_trainer
from utils.training.checkpoints import Checkpoints


class RunsCode:
    """What a stranger could put into a pickle."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(autouse=True)
def alone_again() -> Iterator[None]:
    """Later tests find no process group, and no variable of one."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture
def passed(monkeypatch) -> list[tuple[str, str]]:
    """(verb, file name) of what goes through, in this process."""
    seen = []
    for verb in ("save_checkpoint", "load_checkpoint"):
        own = getattr(checkpoint_io, verb)

        def spy(*args, verb=verb, own=own, **options):
            seen.append((verb, Path(args[-1]).name))
            return own(*args, **options)

        monkeypatch.setattr(checkpoint_io, verb, spy)
    return seen


def new_trainer(**options) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "num_sanity_val_steps": 0}
    defaults = {"accelerator": "cpu", "devices": 1, "enable_checkpointing": False, "max_steps": 2}
    return build_trainer(OmegaConf.create(defaults | quiet | options))


@pytest.mark.parametrize("options", [{}, {"strategy": {"_target_": "lightning.pytorch.strategies.DDPStrategy"}}])
def test_all_verbs_of_a_trainer_go_through_it(tmp_path, passed, options):
    trainer = new_trainer(**options)
    trainer.callbacks.append(Checkpoints(dirpath=tmp_path, filename="best", save_last=True))
    trainer.fit(TinyModel())
    assert set(passed) == {("save_checkpoint", "best.ckpt"), ("save_checkpoint", "last.ckpt")}
    for verb in (trainer.fit, trainer.validate):
        passed.clear()
        verb(TinyModel(), ckpt_path=str(tmp_path / "best.ckpt"))
        assert ("load_checkpoint", "best.ckpt") in passed


def test_a_checkpoint_of_a_stranger_runs_no_code(tmp_path):
    marker = tmp_path / "code_ran"
    torch.save({"state_dict": {}, "x": RunsCode(marker)}, tmp_path / "stranger.ckpt")
    for verb in (new_trainer().fit, new_trainer().validate):
        with pytest.raises(BadCheckpoint, match=r"stranger\.ckpt") as raised:
            verb(TinyModel(), ckpt_path=str(tmp_path / "stranger.ckpt"))
        assert "\n" not in str(raised.value) and not marker.exists()


def test_a_save_that_breaks_off_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    path, io = tmp_path / "a.ckpt", WholeCheckpoints()
    io.save_checkpoint({"step": 1}, path)

    def breaks(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", breaks)
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint({"step": 2}, path)
    assert io.load_checkpoint(path) == {"step": 1} and [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_what_it_cannot_do_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*missing\.ckpt"):
        WholeCheckpoints().load_checkpoint(tmp_path / "missing.ckpt")
    with pytest.raises(TypeError, match="storage_options"):
        WholeCheckpoints().save_checkpoint({}, tmp_path / "a.ckpt", storage_options={})
