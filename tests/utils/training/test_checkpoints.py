from datetime import timedelta
from pathlib import Path

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.utils.tiny_run import TinyModel
from utils.training.checkpoints import Checkpoints


class Saved(Callback):
    """The steps of the last checkpoint and the number of best ones, as they stand when the next batch begins."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.seen: list[tuple[str, int]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        last = [path.name for path in self.folder.glob("*last.ckpt")]
        best = [path.name for path in self.folder.glob("*best.ckpt")]
        self.seen.append(("".join(last), len(best)))


@pytest.mark.parametrize("due", [{"every_n_train_steps": 1}, {"train_time_interval": timedelta(microseconds=1)}])
@pytest.mark.parametrize("batches", [6, 2])
def test_the_last_checkpoint_is_saved_when_it_is_due_however_far_validation_is(tmp_path, due, batches):
    """Also at the end of an epoch of 2 batches; validation comes after step 4."""
    saver = Checkpoints(
        tmp_path, filename="{step}-best", monitor="val_loss", save_last=True, save_top_k=-1, **due,
        save_on_train_epoch_end=False,
    )  # fmt: skip
    saver.CHECKPOINT_NAME_LAST = "{step}-last"
    saved = Saved(tmp_path)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "num_sanity_val_steps": 0}
    interval = {"val_check_interval": 4, "check_val_every_n_epoch": None, "max_steps": 6}
    trainer = Trainer(accelerator="cpu", devices=1, callbacks=[saver, saved], **quiet, **interval)
    trainer.fit(TinyModel(batches=batches))
    lasts = [last for last, _ in saved.seen]
    assert lasts == ["", *(f"step={step}-last.ckpt" for step in (1, 2, 3, 4, 5))]
    if "_defer_save_until_validation" in vars(
        ModelCheckpoint()
    ):  # Lightning 2.4 saves no best one after a last one of that step
        assert [best for _, best in saved.seen[:5]] == [0, 0, 0, 0, 1]


class GetsWorse(TinyModel):
    def validation_step(self, batch, batch_idx) -> None:
        self.log("val_loss", float(self.trainer.global_step), batch_size=2)


@pytest.mark.parametrize("at_epoch_end", [False, True])
def test_the_last_checkpoint_is_saved_at_each_validation_though_none_is_better(tmp_path, at_epoch_end):
    """Lightning 2.6 saves the last one only where a best one is saved; a kill would lose all since then."""
    saver = Checkpoints(
        tmp_path, filename="{step}-best", monitor="val_loss", save_last=True, save_top_k=1,
        save_on_train_epoch_end=at_epoch_end,
    )  # fmt: skip
    saver.CHECKPOINT_NAME_LAST = "{step}-last"
    saved = Saved(tmp_path)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "num_sanity_val_steps": 0}
    trainer = Trainer(accelerator="cpu", devices=1, callbacks=[saver, saved], max_epochs=3, **quiet)
    trainer.fit(GetsWorse(batches=2))
    assert saved.seen[2::2] == [("step=2-last.ckpt", 1), ("step=4-last.ckpt", 1)]
    assert (tmp_path / "step=2-best.ckpt").is_file()
