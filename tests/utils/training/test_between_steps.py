"""What a resumed run knows of the moment between two batches: gradients, metrics, a validation that is due."""

import copy
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from tests.utils.training.test_resume import BY_EPOCHS, BY_STEPS, Recorder, SaveOnce
from utils.training.between_steps import BetweenSteps

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
BY_EPOCH = {"max_epochs": 3, "check_val_every_n_epoch": 1}
PLANS = {"by epochs": BY_EPOCHS, "by steps": BY_STEPS, "at the end of epochs": BY_EPOCH}


class Learner(Recorder):
    """Learns another thing of each batch, and validates on three."""

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        loss = (self.weight - len(self.seen) % 7).square().sum()
        self.log("train_loss", loss.detach(), batch_size=2)
        return loss

    def validation_step(self, batch, batch_idx):
        self.validated_at.append((self.trainer.global_step, batch_idx))
        self.log("val_loss", self.weight.detach().sum(), batch_size=1)

    def val_dataloader(self):
        return DataLoader([0, 1, 2])


class PlateauLearner(Learner):
    """Its rate is halved at every step of its schedule: no loss is ever enough better."""

    interval, frequency = "epoch", 1

    def __init__(self, **options):
        super().__init__(**options)
        self.rates: list[float] = []  # of each training step

    def training_step(self, batch, batch_idx):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        halved = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=10.0)
        schedule = {"scheduler": halved, "monitor": "train_loss", "reduce_on_plateau": True}
        schedule |= {"interval": self.interval, "frequency": self.frequency}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class PlateauByStep(PlateauLearner):
    interval, frequency = "step", 2


class Weights(Callback):
    """After each step of the optimizer."""

    def __init__(self):
        self.after: dict[int, float] = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.after[trainer.global_step] = float(pl_module.weight.detach())


class Metrics(Callback):
    """At each training step's start, what was logged before."""

    def __init__(self):
        self.before: dict[int, dict] = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.before[len(pl_module.seen)] = {name: float(value) for name, value in trainer.callback_metrics.items()}


def fit(model: Learner, options: dict, *callbacks: Callback, checkpoint: Path | None = None) -> Learner:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "accelerator": "cpu", "devices": 1}
    trainer = Trainer(callbacks=[BetweenSteps(), *callbacks], **quiet, **options)
    try:
        trainer.fit(model, ckpt_path=checkpoint)
    except RuntimeError:
        assert model.stop_at == len(model.seen)
    return model


def resumed(path: Path, options: dict, hook: str, batches: int, *callbacks: Callback, kind=Learner):
    """(batches before the checkpoint, the model that went on from it)"""
    saved = SaveOnce(hook, batches, path / "stopped.ckpt")
    fit(kind(stop_at=25), options, saved)
    model = kind()
    model.seen = [None] * saved.seen  # so that it learns what it would have
    fit(model, options, *callbacks, checkpoint=saved.path)
    model.seen = model.seen[saved.seen :]
    return saved.seen, model


SAVES = [
    ("on_train_batch_end", 4),
    ("on_train_batch_end", 5),
    ("on_train_batch_end", 10),
    ("on_train_batch_end", 14),
    ("on_validation_batch_end", 4),
    ("on_validation_batch_end", 10),
    ("on_validation_end", 4),
    ("on_train_epoch_end", 10),
]


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("hook", "batches"), SAVES)
def test_a_run_goes_on_as_if_it_had_not_been_stopped(tmp_path, plan, accumulate, hook, batches):
    options = copy.copy(PLANS[plan]) | {"accumulate_grad_batches": accumulate}
    if "max_steps" in options:
        options["max_steps"] = 30 // accumulate
    weights, metrics = (Weights(), Weights()), (Metrics(), Metrics())
    whole = fit(Learner(), options, weights[0], metrics[0])
    seen, rest = resumed(tmp_path, options, hook, batches, weights[1], metrics[1])
    assert rest.seen == whole.seen[seen:] and len(rest.seen) >= 5
    assert rest.logged_at == whole.logged_at[seen:]
    assert weights[1].after.items() <= weights[0].after.items()
    assert metrics[1].before == {place: logged for place, logged in metrics[0].before.items() if place >= seen}
    repeats = 3 if len(whole.validated_at) > 3 else 0
    assert rest.validated_at == whole.validated_at[-len(rest.validated_at) :] and len(rest.validated_at) >= repeats


@pytest.mark.parametrize("kind", [PlateauLearner, PlateauByStep])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("hook", "batches"), SAVES)
def test_a_schedule_that_follows_a_metric_steps_as_often_as_without_a_stop(tmp_path, plan, hook, batches, kind):
    options = PLANS[plan] | {"accumulate_grad_batches": 2}
    if "max_steps" in options:
        options["max_steps"] = 15
    weights = (Weights(), Weights())
    whole = fit(kind(), options, weights[0])
    _, rest = resumed(tmp_path, options, hook, batches, weights[1], kind=kind)
    assert rest.rates == whole.rates[-len(rest.rates) :] and len({*whole.rates}) > 2
    assert weights[1].after.items() <= weights[0].after.items()


def test_a_validation_that_was_not_done_is_done_first(tmp_path):
    for number, (hook, first) in enumerate([("on_train_batch_end", 8), ("on_validation_batch_end", 8)]):
        (folder := tmp_path / str(number)).mkdir()
        _, rest = resumed(folder, BY_STEPS, hook, 8)
        assert rest.validated_at[:4] == [(first, 0), (first, 1), (first, 2), (12, 0)]


def test_lightning_alone_loses_the_gradients_and_the_validation(tmp_path):
    """Why there is BetweenSteps; when this fails, Lightning may have learnt it."""
    options = BY_STEPS | {"accumulate_grad_batches": 2, "max_steps": 10}
    weights = (Weights(), Weights())
    fit(Learner(), options, weights[0])
    saved = SaveOnce("on_train_batch_end", 5, tmp_path / "stopped.ckpt")
    fit(Learner(stop_at=8), options, saved)
    without = torch.load(saved.path, weights_only=True)
    without["callbacks"].pop("BetweenSteps")
    torch.save(without, saved.path)
    model = Learner()
    model.seen = [None] * 5
    fit(model, options, weights[1], checkpoint=saved.path)
    assert weights[1].after[3] != weights[0].after[3]
