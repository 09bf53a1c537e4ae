"""What a killed run leaves in its folder is gone when it goes on, and nobody else's file is."""

import shutil
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from tests.utils.tiny_run import TinyModel
from utils.checkpoint_files.checkpoint_file import load_checkpoint
from utils.experiment.run_model import NO_MODEL, RunModel
from utils.training.between_steps import BetweenSteps
from utils.training.checkpoints import Checkpoints

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Killed(Exception):
    """Nothing is saved for it, as for SIGKILL."""


class KillAt(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            raise Killed


class Rises(TinyModel):
    """Its score is the step, so the best of the mode `max` are the newest."""

    def validation_step(self, batch, batch_idx) -> None:
        self.log("score", float(self.trainer.global_step), batch_size=2)


def saver(folder: Path, **options) -> Checkpoints:
    defaults = {"monitor": "score", "mode": "max", "save_top_k": 2, "save_last": True, "filename": "{step}"}
    built = Checkpoints(folder, **defaults | options)
    built.CHECKPOINT_NAME_LAST = "{step}-last"
    return built


def run(
    folder: Path,
    checkpoint: str | None = None,
    steps: int = 8,
    kill_at: int = -1,
    also: Callback | None = None,
    model: RunModel = NO_MODEL,
    **options,
) -> Checkpoints:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "num_sanity_val_steps": 0}
    interval = {"val_check_interval": 2, "check_val_every_n_epoch": None, "max_steps": steps}
    saves = saver(folder, **options)
    saves.model = model
    callbacks = [BetweenSteps(), KillAt(kill_at), *([also] if also else []), saves]
    trainer = Trainer(accelerator="cpu", devices=1, callbacks=callbacks, **quiet, **interval)
    try:
        trainer.fit(Rises(batches=50), ckpt_path=checkpoint and str(folder / checkpoint))
    except Killed:
        assert kill_at in (-1, trainer.global_step)
    return saves


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


WHOLE = {"step=6.ckpt", "step=8.ckpt", "step=8-last.ckpt"}


def test_the_one_that_the_run_went_on_from_goes_like_any_other(tmp_path):
    """Lightning keeps it, so each interruption would leave one more file."""
    run(tmp_path, kill_at=5)
    assert names(tmp_path) == {"step=2.ckpt", "step=4.ckpt", "step=4-last.ckpt"}
    run(tmp_path, "step=4-last.ckpt")
    assert names(tmp_path) == WHOLE


def test_files_that_were_to_be_removed_when_the_run_was_killed_go(tmp_path):
    run(tmp_path, kill_at=5)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    run(tmp_path, "step=4-last.ckpt", kill_at=7)
    (tmp_path / "step=4-last.ckpt").write_bytes(before["step=4-last.ckpt"])  # step 6 was saved, this not yet removed
    (tmp_path / "step=6.ckpt.0a1b2c3d.unfinished").write_bytes(b"half")
    (tmp_path / "mine.ckpt").write_bytes(b"a copy that the user keeps")
    run(tmp_path, "step=6-last.ckpt")
    assert names(tmp_path) == WHOLE | {"mine.ckpt"}


def test_a_run_killed_between_the_best_and_the_last_one_goes_on_from_the_best(tmp_path):
    run(tmp_path, kill_at=5)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    run(tmp_path, "step=4-last.ckpt", kill_at=7)
    (tmp_path / "step=6-last.ckpt").unlink()
    for name, data in before.items():
        (tmp_path / name).write_bytes(data)
    saves = run(tmp_path, "step=6.ckpt")
    assert names(tmp_path) == WHOLE
    assert {Path(path).name for path in saves.best_k_models} == {"step=6.ckpt", "step=8.ckpt"}


def test_best_ones_that_are_gone_are_not_counted(tmp_path):
    run(tmp_path, kill_at=5)
    (tmp_path / "step=2.ckpt").unlink()
    saves = run(tmp_path, "step=4-last.ckpt", steps=6)
    assert {Path(path).name for path in saves.best_k_models} == {"step=4.ckpt", "step=6.ckpt"}
    assert Path(saves.best_model_path).name == "step=6.ckpt" and Path(saves.kth_best_model_path).name == "step=4.ckpt"


def test_a_folder_that_was_moved_keeps_its_count(tmp_path):
    run(tmp_path / "here", kill_at=5)
    shutil.move(tmp_path / "here", tmp_path / "there")
    run(tmp_path / "there", "step=4-last.ckpt")
    assert names(tmp_path / "there") == WHOLE and not (tmp_path / "here").exists()


@pytest.mark.parametrize("save_top_k", [1, 3])
def test_a_run_may_go_on_with_more_or_fewer_best_ones(tmp_path, save_top_k):
    run(tmp_path, kill_at=5)
    run(tmp_path, "step=4-last.ckpt", save_top_k=save_top_k)
    best = {f"step={step}.ckpt" for step in (8, 6, 4)[:save_top_k]}
    assert names(tmp_path) == best | {"step=8-last.ckpt"}


def test_a_run_may_go_on_with_another_interval(tmp_path):
    """Lightning takes that for another callback, whose count is none."""
    run(tmp_path, kill_at=5)
    saves = run(tmp_path, "step=4-last.ckpt", every_n_train_steps=4)
    assert names(tmp_path) == {"step=4.ckpt", "step=8.ckpt", "step=8-last.ckpt"} and len(saves.best_k_models) == 2


class KillInValidation(Callback):
    """After the second batch's step, with the first validation due."""

    def on_validation_start(self, trainer, pl_module) -> None:
        if trainer.global_step == 2:
            raise Killed


def test_a_best_one_that_waited_for_a_validation_is_saved_after_a_kill(tmp_path):
    """Lightning 2.6 waits, since the first score isn't known yet; 2.4 doesn't save."""
    save = {"every_n_train_steps": 2, "save_top_k": -1}
    whole = run(tmp_path / "whole", **save)
    run(tmp_path / "killed", also=KillInValidation(), **save)
    killed = run(tmp_path / "killed", "step=2-last.ckpt", **save)
    assert names(tmp_path / "killed") == names(tmp_path / "whole")
    assert moved(killed.state_dict(), tmp_path / "killed") == moved(whole.state_dict(), tmp_path / "whole")


def moved(state: object, folder: Path) -> str:
    return str(state).replace(str(folder), "RUN")


def test_its_state_is_that_of_a_run_that_nobody_killed(tmp_path):
    whole = run(tmp_path / "whole", save_top_k=5)
    run(tmp_path / "killed", kill_at=5, save_top_k=5)
    killed = run(tmp_path / "killed", "step=4-last.ckpt", save_top_k=5, steps=6)
    again = run(tmp_path / "killed", "step=6-last.ckpt", save_top_k=5, steps=6)
    assert again.state_dict() == killed.state_dict() and again.current_score == 6
    after = run(tmp_path / "killed", "step=6-last.ckpt", save_top_k=5)
    assert moved(after.state_dict(), tmp_path / "killed") == moved(whole.state_dict(), tmp_path / "whole")


class Model(RunModel):
    """Counts how often it is written."""

    def __init__(self):
        self.writings = 0

    def checkpoint_saved(self, trainer, checkpoint, best) -> None:
        pass

    def training_ended(self, trainer, best) -> None:
        self.writings += 1


def test_a_run_that_was_killed_at_its_end_is_finished(tmp_path, log):
    model = Model()
    run(tmp_path, model=model)
    (tmp_path / "step=8.ckpt.0a1b2c3d.unfinished").write_bytes(b"half")
    whole = run(tmp_path, "step=8-last.ckpt", model=model)
    assert model.writings == 2 and names(tmp_path) == WHOLE and whole.best_model_path.endswith("step=8.ckpt")
    assert "nothing to train: the checkpoint has 8 steps, and trainer.max_steps=8" in log.text


class KilledAtBest(Model):
    def checkpoint_saved(self, trainer, checkpoint, best) -> None:
        if checkpoint.endswith("step=8.ckpt"):
            raise Killed


def test_a_run_killed_between_its_last_best_and_its_last_checkpoint_has_both(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(whole)
    run(killed, model=KilledAtBest())
    assert names(killed) == {"step=4.ckpt", "step=6.ckpt", "step=8.ckpt", "step=6-last.ckpt"}
    run(killed, "step=8.ckpt")
    assert names(killed) == WHOLE
    ours, theirs = (load_checkpoint(folder / "step=8-last.ckpt")["callbacks"] for folder in (killed, whole))
    assert moved(ours["Checkpoints"], killed) == moved(theirs["Checkpoints"], whole)
    assert ours["BetweenSteps"].keys() == theirs["BetweenSteps"].keys()
    assert ours["BetweenSteps"]["metrics"]["score"] == 8 and ours["BetweenSteps"]["validated_at"] == 8
