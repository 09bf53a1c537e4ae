import csv

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from tests.utils.training.test_between_steps import Learner
from tests.utils.training.test_resume import BY_EPOCHS, BY_STEPS, SaveOnce
from utils.experiment.csv_logger import TableLogger
from utils.experiment.loggers import KeepLoggers
from utils.training.between_steps import BetweenSteps
from utils.training.callbacks import StepTimer
from utils.training.resume import KNOWS_BATCH_END


def lines(folder) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def log(folder, *logged: tuple[int, dict], resumed: tuple[int | None, int] | None = None) -> None:
    logger = TableLogger(folder)
    if resumed is not None:
        logger.go_on(*resumed)
    for step, metrics in logged:
        logger.log_metrics(metrics, step)


def test_each_line_is_on_the_disk_when_it_is_logged(tmp_path):
    log(tmp_path, (9, {"loss": torch.tensor(0.5)}), (19, {"loss": 0.25}))
    assert lines(tmp_path) == [{"step": "9", "loss": "0.5"}, {"step": "19", "loss": "0.25"}]


def test_new_columns_leave_earlier_lines_as_they_were(tmp_path):
    log(tmp_path, (9, {"loss": 0.5}), (9, {"val_loss": 2.0}), (19, {"loss": 0.25}))
    assert lines(tmp_path) == [
        {"step": "9", "loss": "0.5", "val_loss": ""},
        {"step": "9", "loss": "", "val_loss": "2.0"},
        {"step": "19", "loss": "0.25", "val_loss": ""},
    ]


@pytest.mark.parametrize("count", [1, None])
def test_a_resumed_run_goes_on_and_takes_the_place_of_what_came_after_its_checkpoint(tmp_path, count):
    log(tmp_path, (9, {"loss": 0.5}), (19, {"loss": 0.25}), (29, {"loss": 0.1}))
    log(tmp_path, (19, {"loss": 0.25}), (29, {"loss": 0.125, "new": 1.0}), resumed=(count, 10))
    assert [(line["step"], line["loss"], line["new"]) for line in lines(tmp_path)] == [
        ("9", "0.5", ""),
        ("19", "0.25", ""),
        ("29", "0.125", "1.0"),
    ]


def test_a_line_that_a_kill_cut_is_no_harm(tmp_path):
    log(tmp_path, (9, {"loss": 0.5, "x": 1.0}))
    with open(tmp_path / "metrics.csv", "a", encoding="utf-8") as file:
        file.write("19,0.")
    log(tmp_path, (19, {"loss": 0.25}), resumed=(1, 10))
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [("9", "0.5"), ("19", "0.25")]


def test_a_run_that_starts_anew_starts_the_table_anew(tmp_path):
    log(tmp_path, (9, {"loss": 0.5}), (19, {"loss": 0.25}))
    log(tmp_path, (4, {"other": 1.0}))
    assert lines(tmp_path) == [{"step": "4", "other": "1.0"}]


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log(tmp_path, (9, {"loss": 0.5}))
    assert not list(tmp_path.iterdir())


def fit(folder, model: Learner, options: dict, *callbacks: Callback, checkpoint=None) -> Trainer:
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    quiet |= {"num_sanity_val_steps": 0, "log_every_n_steps": 2, "accelerator": "cpu", "devices": 1}
    callbacks = [BetweenSteps(), KeepLoggers(folder), *callbacks]
    trainer = Trainer(logger=TableLogger(folder), callbacks=callbacks, **quiet, **options)
    try:
        trainer.fit(model, ckpt_path=checkpoint)
    except RuntimeError:
        assert model.stop_at == len(model.seen)
    return trainer


SAVES = [
    ("on_train_batch_end", 3),
    ("on_train_batch_end", 4),
    ("on_train_batch_end", 10),
    ("on_validation_batch_end", 4),
]
if KNOWS_BATCH_END:  # an older Lightning validates again, and logs it
    SAVES += [("on_validation_end", 4), ("on_validation_end", 10)]


class SaveAndStop(SaveOnce):
    def save(self, trainer: Trainer, model: Learner, *args) -> None:
        super().save(trainer, model)
        if self.seen is not None:
            model.stop_at = self.seen
            raise RuntimeError


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("plan", [BY_EPOCHS, BY_STEPS], ids=["by epochs", "by steps"])
@pytest.mark.parametrize(("hook", "batches"), SAVES)
def test_the_table_of_a_killed_run_is_that_of_a_run_nobody_killed(tmp_path, hook, batches, plan, accumulate, lost):
    """lost: whether steps came after the checkpoint; else the kill came right after it was saved."""
    options = plan | {"accumulate_grad_batches": accumulate}
    if "max_steps" in options:
        options["max_steps"] = 30 // accumulate
    fit(tmp_path / "whole", Learner(), options)
    saved = (SaveOnce if lost else SaveAndStop)(hook, batches, tmp_path / "saved.ckpt")
    fit(tmp_path / "killed", Learner(stop_at=20), options, saved)
    rest = Learner()
    rest.seen = [None] * saved.seen
    fit(tmp_path / "killed", rest, options, checkpoint=saved.path)
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole") and len(lines(tmp_path / "whole")) > 5


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_times_of_validation_stand_at_the_step_of_training(tmp_path):
    fit(tmp_path, Learner(), BY_STEPS | {"max_steps": 8}, StepTimer())
    timed = [line for line in lines(tmp_path) if line["validation_step_timing in s"]]
    assert [(line["step"], bool(line["val_loss"])) for line in timed] == [("3", True), ("7", True)]
