from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor

from tests.utils.tiny_run import Batch, TinyModel
from utils.checkpoint_files.checkpoint_file import load_checkpoint, save_checkpoint
from utils.experiment.run_model import RunModel
from utils.training.checkpoints import Checkpoints
from utils.training.ema import EMA


class Model(TinyModel):
    """Validation is best at step 2; each writing of the .nemo file is noted by its step."""

    def __init__(self):
        super().__init__()
        self.written_at: list[int] = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val_loss", abs(self.trainer.global_step - 2.0), batch_size=1)

    def save_to(self, path: Path) -> None:
        self.written_at.append(self.trainer.global_step)
        save_checkpoint(self.state_dict(), path)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Trained(Callback):
    """The weight after each step, by its number."""

    def __init__(self):
        self.at: dict[int, Tensor] = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.at[trainer.global_step] = pl_module.out.weight.detach().clone()


def run(folder: Path, *callbacks: Callback, model=None, checkpoints: dict | None = None, **options) -> Trainer:
    seed_everything(1)
    path = folder / "exp.nemo"
    defaults = {"monitor": "val_loss", "save_last": True, "save_top_k": 3, "save_on_train_epoch_end": False}
    saver = Checkpoints(folder, **defaults | (checkpoints or {}))
    saver.model = RunModel(path, **options)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "num_sanity_val_steps": 0}
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=4, val_check_interval=1, callbacks=[*callbacks, saver], **quiet
    )
    trainer.fit(model or Model())
    return trainer


def weight(folder: Path) -> Tensor:
    return load_checkpoint(folder / "exp.nemo")["out.weight"]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [4]),
        ({"at_end": False}, []),
        ({"at_checkpoints": True, "at_end": False}, [1, 2, 3, 4]),
        ({"at_checkpoints": True}, [1, 2, 3, 4, 4]),
        ({"at_checkpoints": True, "at_end": False, "best_only": True}, [1, 2]),
        ({"best_only": True}, [4]),
    ],
)
def test_the_model_is_written_when_asked_for(tmp_path, options, steps):
    """A best checkpoint and the last, saved at the same step, are written once."""
    trainer = run(tmp_path, **options)
    assert trainer.lightning_module.written_at == steps
    assert (tmp_path / "exp.nemo").exists() == bool(steps)


@pytest.mark.parametrize(("best_only", "step"), [(False, 4), (True, 2)])
def test_at_the_end_it_has_the_last_weights_or_the_best(tmp_path, best_only, step, log):
    trained = Trained()
    trainer = run(tmp_path, trained, best_only=best_only)
    assert torch.equal(weight(tmp_path), trained.at[step])
    assert torch.equal(trainer.lightning_module.out.weight, trained.at[4])
    assert f"{'the best model of the run' if best_only else 'the model'} is in {tmp_path / 'exp.nemo'}" in log.text


@pytest.mark.parametrize("options", [{}, {"best_only": True}, {"at_checkpoints": True, "at_end": False}])
def test_averaged_weights_are_written_where_the_run_keeps_some(tmp_path, options):
    ema, trained = EMA(0.5), Trained()
    averages = {}

    class Averages(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            averages[trainer.global_step] = ema._averages["out.weight"].clone()

    trainer = run(tmp_path, ema, Averages(), trained, **options)
    assert torch.equal(weight(tmp_path), averages[2 if "best_only" in options else 4])
    assert torch.equal(trainer.lightning_module.out.weight, trained.at[4])


def test_checkpoints_of_weights_alone_hold_the_averaged_ones(tmp_path):
    ema, trained = EMA(0.5), Trained()
    trainer = run(tmp_path, ema, trained, checkpoints={"save_weights_only": True})
    (last,) = tmp_path.glob("last.ckpt")
    assert torch.equal(load_checkpoint(last)["state_dict"]["out.weight"], ema._averages["out.weight"])
    assert torch.equal(trainer.lightning_module.out.weight, trained.at[4])


def test_the_last_weights_are_written_where_the_best_cannot_be_read(tmp_path, log):
    class Damaged(Callback):
        def on_train_end(self, trainer, pl_module) -> None:
            Path(trainer.checkpoint_callback.best_model_path).write_bytes(b"no")

    trained = Trained()
    run(tmp_path, Damaged(), trained, best_only=True)
    assert torch.equal(weight(tmp_path), trained.at[4])
    assert "the last weights are written instead" in log.text


def test_a_run_without_a_best_checkpoint_writes_its_last_weights(tmp_path, log):
    trained = Trained()
    run(tmp_path, trained, checkpoints={"save_top_k": 0}, best_only=True)
    assert torch.equal(weight(tmp_path), trained.at[4])
    assert "no checkpoint was the best" in log.text


def test_a_model_that_has_no_such_file_writes_none(tmp_path, log):
    class Nameless(TinyModel):
        pass

    run(tmp_path, model=Nameless())
    assert not (tmp_path / "exp.nemo").exists() and "Nameless has no save_to" in log.text


def test_an_option_without_effect_is_said(log):
    RunModel(Path("x.nemo"), at_end=False, best_only=True)
    assert "save_best_model=true has no effect" in log.text


def test_another_suffix_is_refused():
    with pytest.raises(ValueError, match=r"checkpoint_callback_params\.postfix must end in \.nemo"):
        RunModel(Path("x.ckpt"))
