"""What training steps draw: in an uninterrupted run, beside evaluations, on other ranks, and in a resumed run."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from tests.utils.training.test_resume import BY_STEPS, Recorder, SaveOnce
from utils.training.step_seeds import StepSeeds, seed_all

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


OF_THE_PROCESS = 67280421310721  # torch.initial_seed() where nothing was seeded is a random number


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


class Drawing(Recorder):
    """Keeps what each training step draws, by the step; its module has a generator of its own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.layer = torch.nn.Identity()
        self.layer.rng = random.Random(3)
        self.drawn: dict[int, tuple] = {}

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.drawn[self.seen[-1][-2]] = (batch_idx, self.layer.rng.random(), *draw())
        return loss

    def validation_step(self, batch, batch_idx):
        draw()


class DrawsAtValidation(Callback):
    def on_validation_start(self, trainer, pl_module) -> None:
        draw()


def fit(model: Drawing, callbacks: list, checkpoint=None, **options) -> dict[int, tuple]:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        **quiet | BY_STEPS | options,
    )
    try:
        trainer.fit(model, ckpt_path=checkpoint)
    except RuntimeError:
        assert model.stop_at == len(model.seen)
    return model.drawn


@pytest.mark.parametrize("saved_after", [4, 10, 14])  # amid an epoch, at its end, in the next
@pytest.mark.parametrize("seed", [None, 7])
def test_a_resumed_run_draws_what_the_uninterrupted_one_draws(tmp_path, seed, saved_after):
    def start(*callbacks, seeded=seed, **options) -> dict[int, tuple]:
        torch.manual_seed(OF_THE_PROCESS)
        if seeded is not None:
            seed_everything(seeded, verbose=False)
        return fit(Drawing(stop_at=options.pop("stop_at", None)), [StepSeeds(), *callbacks], **options)

    saved = SaveOnce("on_train_batch_end", saved_after, tmp_path / "stopped.ckpt")
    uninterrupted = start()
    start(saved, stop_at=saved_after + 2)
    resumed = start(seeded=99, checkpoint=saved.path)  # nothing of the first process is left but the checkpoint
    assert len(resumed) == 30 - saved_after
    assert resumed == {step: drawn for step, drawn in uninterrupted.items() if step >= saved_after}
    assert len(set(uninterrupted.values())) == 30


def test_without_it_a_resumed_run_draws_anew(tmp_path):
    """Why there is StepSeeds."""
    saved = SaveOnce("on_train_batch_end", 4, tmp_path / "stopped.ckpt")
    seed_everything(7, verbose=False)
    uninterrupted = fit(Drawing(), [])
    seed_everything(7, verbose=False)
    fit(Drawing(stop_at=6), [saved])
    resumed = fit(Drawing(), [], checkpoint=saved.path)
    assert resumed[4] != uninterrupted[4]


def test_what_an_evaluation_draws_changes_no_step():
    for callbacks in ([], [DrawsAtValidation()]):
        torch.manual_seed(1)
        drawn = fit(Drawing(), [StepSeeds(), *callbacks], max_steps=10)
        if not callbacks:
            alone = drawn
    assert drawn == alone


def test_another_seed_another_rank_another_place_draw_otherwise():
    places = [(1, 0, 0, 0), (2, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1)]
    drawn = []
    for place in [*places, places[0]]:
        seed_all(place)
        drawn.append(draw())
    assert len(set(drawn)) == len(places) and drawn[-1] == drawn[0]
    assert all(len(set(kind)) == len(places) for kind in zip(*drawn))


def test_all_ranks_take_the_seed_of_the_first():
    seeds = StepSeeds()
    strategy = SimpleNamespace(broadcast=lambda value: 5)
    seeds.on_train_start(SimpleNamespace(strategy=strategy), torch.nn.Identity())
    assert seeds.state_dict() == {"run_seed": 5}


def test_the_seed_of_a_modules_own_generator_still_counts():
    drawn = []
    for seed in (1, 2, 1):
        model, seeds = torch.nn.Identity(), StepSeeds()
        model.rng = random.Random(seed)
        seeds.load_state_dict({"run_seed": 0})
        seeds.on_train_start(None, model)
        seeds.on_train_batch_start(SimpleNamespace(current_epoch=0, global_rank=0), model, None, 3)
        drawn.append(model.rng.random())
    assert drawn[0] == drawn[2] != drawn[1]


def test_overfitting_and_trial_runs_draw_too():
    assert len(fit(Drawing(), [StepSeeds()], overfit_batches=2, max_steps=4)) == 4
    assert len(fit(Drawing(), [StepSeeds()], fast_dev_run=2)) == 2
