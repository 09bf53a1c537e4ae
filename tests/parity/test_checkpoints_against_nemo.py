"""Runs that move between NeMo and this project by a Lightning checkpoint, and go on as if they had stayed.

Runs where NeMo 3.0.0 can be imported (`pytest -m nemo tests/parity/test_checkpoints_against_nemo.py` in its
environment). Both see the same batches and masks, so that after three steps there and three here the weights, the
state of the optimizer and the learning rate are those of six steps in one place.
"""

import importlib.util
import logging
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader

from models.ssl_models import EncDecDenoiseMaskedTokenPredModel
from parts.batch_types import AudioNoiseBatch
from tools.parity.cases import DENOISE, NEMO, OURS, SEED, Case, make_audio, make_masks, model_case, shift_weights
from tools.parity.levels import feed_masks
from tools.parity.records import copy_weights, start_weights
from utils.checkpoint_files.checkpoint_io import WholeCheckpoints

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif(importlib.util.find_spec("nemo") is None, reason="needs the real NeMo 3.0.0 to be installed"),
]

STEPS = 3  # an epoch, and what each half of a run takes
BETAS = {"betas": [0.9, 0.98], "weight_decay": 0.001}
NOAM = {"name": "NoamAnnealing", "d_model": 16, "warmup_steps": 4, "min_lr": 1e-6, "max_steps": 100}
COSINE = {"name": "CosineAnnealing", "warmup_steps": 2, "min_lr": 1e-5, "max_steps": 20}
OPTIMS = {
    "adamw": {"name": "adamw", "lr": 0.05, **BETAS, "sched": NOAM},
    "adamw_cosine": {"name": "adamw", "lr": 0.002, **BETAS, "sched": COSINE},
    "sgd": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "sched": NOAM},
    "novograd": {"name": "novograd", "lr": 0.01, "betas": [0.95, 0.5], "weight_decay": 0.001, "sched": COSINE},
    "adan": {"name": "adan", "lr": 0.002, "weight_decay": 0.01, "sched": COSINE},
}


@pytest.fixture(autouse=True)
def quiet_nemo():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


class Masks(Callback):
    """Steps of the run are masked alike, whichever code takes them."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        feed_masks(pl_module, make_masks()[trainer.global_step % STEPS])

    def on_train_end(self, trainer, pl_module) -> None:
        del pl_module.mask_processor.forward


def batches() -> DataLoader:
    items = []
    for seed in range(STEPS):
        audio = make_audio(seed)
        clean, noisy, lengths = audio["clean"] / 32768, audio["noisy"] / 32768, audio["lengths"]
        items.append(AudioNoiseBatch(["a", "b"], clean, lengths, noisy - clean, lengths, noisy, lengths))
    return DataLoader(items, batch_size=None)


def case_of(optim: str, **changes) -> Case:
    return model_case(DENOISE, **{"optim": OPTIMS[optim], "preprocessor.features": 20} | changes)


def new_trainer(epochs: int, plugins: list) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        callbacks=[Masks()],
        plugins=plugins,
        precision="64-true",  # some gradients are nothing but rounding, which Adam blows up
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def train(case: Case, package: str, start: dict[str, Tensor], goes_on_from: Path | None = None, epochs: int = 1):
    """A model of `package`, trained up to `epochs`, and its trainer."""
    trainer = new_trainer(epochs, [WholeCheckpoints()] if package == OURS else [])
    model = case.build(package)
    copy_weights(start, model)
    model.set_trainer(trainer)
    trainer.fit(model, batches(), ckpt_path=goes_on_from)
    return model, trainer


@pytest.fixture(params=OPTIMS)
def case(request) -> Case:
    return case_of(request.param)


@pytest.fixture
def start(case) -> dict[str, Tensor]:
    return drawn_weights(case)


def drawn_weights(case: Case) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = case.build(NEMO)
    shift_weights(model, SEED)
    return start_weights(model)


def assert_same_run(model: LightningModule, trainer: Trainer, other: LightningModule, other_trainer: Trainer) -> None:
    assert (trainer.global_step, trainer.current_epoch) == (other_trainer.global_step, other_trainer.current_epoch)
    mine, theirs = trainer.optimizers[0].state_dict(), other_trainer.optimizers[0].state_dict()
    assert mine["param_groups"][0]["lr"] == pytest.approx(theirs["param_groups"][0]["lr"], rel=1e-12)
    assert mine["param_groups"][0]["params"] == theirs["param_groups"][0]["params"]
    torch.testing.assert_close(start_weights(model), start_weights(other), rtol=0, atol=1e-6)
    assert mine["state"].keys() == theirs["state"].keys()
    for index, state in mine["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(value, theirs["state"][index][name], rtol=1e-4, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize(("first", "second"), [(NEMO, OURS), (OURS, NEMO), (OURS, OURS)], ids=["in", "out", "here"])
def test_a_run_moves_between_nemo_and_here(case, start, tmp_path, first, second):
    _, trainer = train(case, first, start)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    half = {name: torch.full_like(value, 0.5) for name, value in start.items()}  # the checkpoint has all of them
    moved = train(case, second, half, tmp_path / "half.ckpt", epochs=2)
    stayed = train(case, NEMO, start, epochs=2)
    assert moved[1].global_step == 2 * STEPS
    assert_same_run(*moved, *stayed)


def assert_equal(loaded: LightningModule, trained: LightningModule) -> None:
    """A model is built in float32, whatever it was trained in."""
    theirs = loaded.state_dict()
    mine = {name: value.to(theirs[name].dtype) for name, value in trained.state_dict().items()}
    torch.testing.assert_close(theirs, mine, rtol=0, atol=0)


def test_nemos_class_loads_our_checkpoint_with_the_config_of_its_folder(tmp_path):
    """NeMo 3.0.0 insists on a pickled DictConfig, where our checkpoints have plain data, which opens without code."""
    case = case_of("adamw")
    model, trainer = train(case, OURS, drawn_weights(case))
    trainer.save_checkpoint(tmp_path / "ours.ckpt")
    OmegaConf.save({"cfg": model.cfg}, tmp_path / "hparams.yaml")  # as the logger writes it
    theirs = type(case.build(NEMO)).load_from_checkpoint(
        tmp_path / "ours.ckpt", map_location="cpu", hparams_file=tmp_path / "hparams.yaml"
    )
    assert_equal(theirs, model)
    assert theirs.cfg.encoder == model.cfg.encoder and theirs.cfg.optim == model.cfg.optim


def test_our_class_loads_nemos_checkpoint(tmp_path):
    case = case_of("adamw")
    model, trainer = train(case, NEMO, drawn_weights(case))
    trainer.save_checkpoint(tmp_path / "theirs.ckpt")
    ours = EncDecDenoiseMaskedTokenPredModel.load_from_checkpoint(tmp_path / "theirs.ckpt")
    assert_equal(ours, model)
    assert ours.cfg.encoder == model.cfg.encoder and ours.cfg.optim == model.cfg.optim
