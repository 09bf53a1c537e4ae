"""The moving average of the weights beside NeMo's, step by step.

Runs where NeMo 3.0.0 can be imported (`pytest -m nemo tests/parity/test_ema_against_nemo.py` in its environment).
"""

import importlib.util
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from utils.training.ema import EMA, check_averages

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif(importlib.util.find_spec("nemo") is None, reason="needs the real NeMo 3.0.0 to be installed"),
]


class Model(LightningModule):
    """A frozen layer, batch norm and dropout."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.frozen = nn.Linear(4, 4, dtype=torch.float64).requires_grad_(False)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 1))

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        check_averages(self.trainer, checkpoint)

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(self.current_epoch)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.layers(batch) - 1.0).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", (self.layers(batch) - 1.0).square().mean())

    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.randn(12, 3, 4, generator=torch.Generator().manual_seed(2)), batch_size=None)

    val_dataloader = train_dataloader

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.05)


class Validations(Callback):
    """The losses of validation, which are those of the averages."""

    def __init__(self):
        self.losses: list[Tensor] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.losses.append(trainer.callback_metrics["val_loss"])


def fit(
    ema: Callback, accumulate: int = 1, *callbacks: Callback, max_epochs: int = 2, ckpt_path: Path | None = None
) -> tuple[LightningModule, Trainer, list[Tensor]]:
    model, validations = Model(), Validations()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=max_epochs,
        callbacks=[ema, validations, *callbacks],
        accumulate_grad_batches=accumulate,
        val_check_interval=4,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, ckpt_path=ckpt_path)
    return model, trainer, validations.losses


@pytest.mark.parametrize("every_n_steps", [1, 2, 5])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("original", [False, True])
def test_averages_and_validation_losses_are_nemos_bit_for_bit(every_n_steps, accumulate, original):
    from nemo.collections.common.callbacks import EMA as NeMoEMA

    options = {"decay": 0.9, "every_n_steps": every_n_steps, "validate_original_weights": original}
    ours, theirs = EMA(**options), NeMoEMA(**options)
    model, _, losses = fit(ours, accumulate)
    nemo_model, trainer, nemo_losses = fit(theirs, accumulate)
    torch.testing.assert_close(model.state_dict(), nemo_model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(losses, nemo_losses, rtol=0, atol=0)
    (optimizer,) = trainer.optimizers
    optimizer.join()
    for (name, parameter), average in zip(nemo_model.named_parameters(), optimizer.ema_params):
        if parameter.requires_grad:
            torch.testing.assert_close(ours._averages[name], average, rtol=0, atol=0)
            assert not torch.equal(average, parameter)
        else:  # NeMo averages them too, which rounding shows
            torch.testing.assert_close(parameter.detach(), average)


def test_a_run_of_nemos_goes_on_with_its_average(tmp_path):
    from nemo.collections.common.callbacks import EMA as NeMoEMA
    from nemo.utils.callbacks import NeMoModelCheckpoint

    def saves() -> NeMoModelCheckpoint:
        return NeMoModelCheckpoint(dirpath=tmp_path, filename="x", save_nemo_on_train_end=False)

    options = {"decay": 0.9, "every_n_steps": 5}
    whole, first, second = NeMoEMA(**options), NeMoEMA(**options), EMA(**options)
    nemo_model, trainer, _ = fit(whole, 1, max_epochs=2)
    fit(first, 1, saves(), max_epochs=1)
    model, _, _ = fit(second, max_epochs=2, ckpt_path=tmp_path / "x.ckpt")
    torch.testing.assert_close(model.state_dict(), nemo_model.state_dict(), rtol=0, atol=0)
    averages = dict(zip(dict(nemo_model.named_parameters()), trainer.optimizers[0].ema_params))
    torch.testing.assert_close(second._averages, {name: averages[name] for name in second._averages}, rtol=0, atol=0)
    with pytest.raises(
        ValueError, match=r"x-EMA\.ckpt holds averaged weights only: go on from the checkpoint beside it"
    ):
        fit(EMA(**options), ckpt_path=tmp_path / "x-EMA.ckpt")
