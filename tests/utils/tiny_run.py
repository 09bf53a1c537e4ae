"""A model that trains in no time and keeps the contract of ours with trainer, progress and checkpoints."""

from dataclasses import dataclass

import torch
from lightning.pytorch import LightningModule
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader


@dataclass
class Batch:
    audio: Tensor
    audio_len: Tensor

    def __len__(self) -> int:
        return len(self.audio_len)


class TinyModel(LightningModule):
    """Batch norm and a linear layer; `batches` per epoch of 2 items of 1 s each."""

    def __init__(self, batches: int = 4, validate: bool = True):
        super().__init__()
        self.cfg = OmegaConf.create({"sample_rate": 16000})
        self.norm = nn.BatchNorm1d(3)
        self.out = nn.Linear(3, 1)
        self.batches, self.validate = batches, validate
        self.validated_at: list[int] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.out(self.norm(batch.audio)).square().mean()
        self.log_dict({"train_loss": loss.detach(), "train_accuracy": 0.25}, batch_size=2)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log_dict({"val_loss": self.out(self.norm(batch.audio)).square().mean(), "val_accuracy": 0.5}, batch_size=2)

    def on_validation_start(self) -> None:
        self.validated_at.append(self.trainer.global_step)

    def _loader(self, count: int) -> DataLoader:
        items = [Batch(torch.randn(2, 3), torch.tensor([16000, 16000])) for _ in range(count)]
        return DataLoader(items, batch_size=None)

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.batches)

    def val_dataloader(self) -> DataLoader | list:
        return self._loader(2) if self.validate else []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)
