"""`ModelPT`: a model that Lightning trains from one config: its data, its optimizer, its metrics, its checkpoints."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor
from torch.optim import Optimizer

from core.classes.dataloaders import Dataloaders
from core.classes.metrics import WeightedMeans
from core.classes.module import NeuralModule
from core.connectors.initial_weights import start_from
from core.connectors.save_restore import compare_optimizers, restore_lightning, restore_nemo, save_nemo, saved_config
from core.optim import build_optimizer, build_scheduler
from utils.logging import logger
from utils.training.ema import check_averages
from utils.training.resume import align_progress


class ModelPT(NeuralModule, Dataloaders, LightningModule):
    """Base of models. A subclass builds its layers from `self.cfg` and gives `training_step`, `evaluation_step`
    and `build_dataloader`.

    cfg: the `model` section of a config; kept, resolved, as `self.cfg`. Its train_ds, validation_ds and test_ds become
        data loaders in Lightning's `setup`, not here (NeMo builds them in the constructor); its optim becomes the
        optimizer and its schedule.
    trainer: Lightning's, when it exists already; `trainer.fit(model)` attaches it otherwise.
    nemo_paths: the paths of the class in NeMo, if it is there; the first is written into files.
    """

    nemo_paths: tuple[str, ...] = ()

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        if trainer is not None and not isinstance(trainer, Trainer):
            raise ValueError(f"trainer must be a lightning.pytorch.Trainer or None, not {type(trainer).__name__}")
        super().__init__()
        self._cfg = resolved(cfg)
        self.save_hyperparameters({"cfg": OmegaConf.to_container(self._cfg)})
        self._optimizer: Optimizer | None = None
        self._scheduler: dict | None = None
        self._means = WeightedMeans()
        if trainer is not None:
            self.set_trainer(trainer)

    # config and trainer

    @property
    def cfg(self) -> DictConfig:
        """The model's config. Changing it changes nothing that is built already."""
        return self._cfg

    @cfg.setter
    def cfg(self, cfg: DictConfig) -> None:
        self._cfg = resolved(cfg)

    def set_trainer(self, trainer: Trainer) -> None:
        """Attach a trainer, so that data loaders know the number of processes and the schedule its length."""
        self.trainer = trainer

    @property
    def world_size(self) -> int:
        """Number of training processes."""
        return 1 if self._trainer is None else self._trainer.world_size

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Save the config as it stands now, as plain data, in NeMo's words: a checkpoint needs no code to be read."""
        checkpoint["hyper_parameters"] = {"cfg": OmegaConf.to_container(saved_config(self)[0])}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Go on with exactly the next batch. Raises ValueError, in one line, for the weights of another model."""
        theirs, ours = checkpoint["state_dict"], self.state_dict()
        for name in sorted(theirs.keys() | ours.keys()):
            there, here = (tuple(state[name].shape) if name in state else "none" for state in (theirs, ours))
            if there != here:
                raise ValueError(
                    f"the checkpoint is of another model: {name} is {there} there and {here} here; to start anew, give "
                    "the run another folder (exp_manager.name) or set exp_manager.resume_if_exists=false; "
                    "to start from what fits of it, use init_from_ptl_ckpt"
                )
        if self._trainer is not None and self._trainer.state.fn == "fit":
            compare_optimizers(checkpoint, self.cfg)
            check_averages(self._trainer, checkpoint)
        if self._train_dl is not None and self._trainer is not None and self._trainer.state.fn == "fit":
            align_progress(checkpoint, self._train_dl)

    # optimizer

    def setup_optimization(
        self, optim_config: Mapping | None = None, optim_kwargs: Mapping | None = None
    ) -> tuple[Optimizer, dict | None]:
        """Build the optimizer and its schedule, and keep them as `_optimizer` and `_scheduler`.

        optim_config: like `model.optim`, which is used when None.
        optim_kwargs: arguments for the optimizer that a config can't hold.
        Returns the optimizer, and Lightning's dict of the schedule: None without `sched`, which is a constant rate.
        """
        if optim_config is not None:
            with open_dict(self.cfg):
                self.cfg.optim = optim_config
        config = self.cfg.get("optim")
        if config is None:
            raise ValueError("model.optim is missing: name an optimizer there, e.g. {name: adamw, lr: 0.001}")
        groups = self.setup_optimizer_param_groups()
        self._optimizer = build_optimizer(groups, {**OmegaConf.to_container(config), **(optim_kwargs or {})})
        self._scheduler = None
        if config.get("sched") is not None:
            steps = {"max_steps": self.max_steps(), "planned_steps": self.planned_steps()}
            self._scheduler = build_scheduler(self._optimizer, config.sched, **steps)
        return self._optimizer, self._scheduler

    def setup_optimizer_param_groups(self) -> list[dict]:
        """Parameter groups: all parameters, or one group per module named in `model.optim_param_groups`.

        optim_param_groups: {encoder: {lr: 1e-4}, ...}; what it doesn't name comes first, at the optimizer's own values.
        Frozen parameters are in the groups, as in NeMo: they get no gradients, so no updates, and can be unfrozen
        later; and optimizer states of NeMo's checkpoints keep their order.
        """
        named = self.cfg.get("optim_param_groups") or {}
        groups, taken = [], set()
        for name, options in named.items():
            module = getattr(self, name, None)
            if module is None or not hasattr(module, "parameters"):
                raise ValueError(f"model.optim_param_groups.{name} is not a module of {type(self).__name__}")
            parameters = list(module.parameters())
            taken.update(parameters)
            groups.append({"params": parameters, **options})
        rest = [p for p in self.parameters() if p not in taken]
        return [{"params": rest}, *groups] if rest else groups

    def max_steps(self) -> int | None:
        """Optimizer steps after which the trainer ends the run; None where only its epochs do."""
        trainer = self._trainer
        return trainer.max_steps if trainer is not None and trainer.max_steps >= 0 else None

    def planned_steps(self) -> int | None:
        """Optimizer steps of the run, of `max_steps` or of its epochs; None when unknown."""
        trainer = self._trainer
        if self.max_steps() is not None or trainer is None or trainer.state.fn != "fit":
            return self.max_steps()
        steps = trainer.estimated_stepping_batches
        return int(steps) if 0 <= steps < float("inf") else None

    def configure_optimizers(self) -> dict:
        """For Lightning."""
        optimizer, scheduler = self.setup_optimization()
        return {"optimizer": optimizer} if scheduler is None else {"optimizer": optimizer, "lr_scheduler": scheduler}

    @property
    def learning_rate(self) -> float:
        """Rate of the first parameter group, now."""
        return self._optimizer.param_groups[0]["lr"]

    # evaluation

    def evaluation_step(self, batch: object) -> tuple[dict[str, Tensor], int]:
        """Metrics of one validation or test batch, `loss` among them, and over how many items each is a mean."""
        raise NotImplementedError(f"{type(self).__name__} has no evaluation_step, so it can't be validated or tested")

    def validation_step(self, batch: object, batch_idx: int = 0, dataloader_idx: int = 0) -> None:
        self._evaluate("val", batch, dataloader_idx)

    def test_step(self, batch: object, batch_idx: int = 0, dataloader_idx: int = 0) -> None:
        self._evaluate("test", batch, dataloader_idx)

    def _evaluate(self, stage: str, batch: object, dataloader_idx: int) -> None:
        """Add the metrics of a batch to the means of the epoch; an empty batch has none."""
        if len(batch) == 0:
            return
        metrics, weight = self.evaluation_step(batch)
        for metric, value in metrics.items():
            for name in self.logged_names(stage, f"{stage}_{metric}", dataloader_idx):
                self._means.add(name, value, weight)

    def on_validation_epoch_end(self) -> None:
        """Log `val_loss` and the like; no number where no sample could be read."""
        means = self._means.pop()
        if "val_loss" not in means:
            logger.warning("no sample of the validation data could be read: val_loss is no number")
        for name, mean in ({"val_loss": math.nan} | means).items():
            self.log(name, mean, prog_bar=name == "val_loss")

    def on_test_epoch_end(self) -> None:
        """Log `test_loss` and the like."""
        self.log_dict(self._means.pop())

    # files

    @classmethod
    def config_of_file(cls, config: DictConfig, source: str) -> DictConfig:
        """The config of a file without what this class wouldn't take, though the weights are good."""
        return config

    def config_to_save(self) -> DictConfig:
        """The config that goes into a file. A model whose config NeMo would read otherwise says it in NeMo's way."""
        return self.cfg

    def save_to(self, save_path: str | Path) -> None:
        """Write the model as one .nemo file, weights and config, which NeMo 3.0.0 opens too."""
        save_nemo(self, save_path)

    @classmethod
    def restore_from(
        cls,
        restore_path: str | Path,
        override_config_path: str | Path | Mapping | None = None,
        map_location: torch.device | str | None = None,
        strict: bool = True,
        return_config: bool = False,
        save_restore_connector: None = None,
        trainer: Trainer | None = None,
        validate_access_integrity: bool = True,
    ) -> "ModelPT | DictConfig":
        """The model of a .nemo file, ours or NeMo's.

        override_config_path: a config to use instead of the file's, a yaml file or a mapping.
        map_location: a device; None: the GPU if there is one.
        strict: False takes a file that lacks weights, or has some too many, and logs which.
        return_config: give only the config.
        save_restore_connector, validate_access_integrity: NeMo's, for models in several files; None and True only.
        Raises FileNotFoundError; ValueError, in one line, for a damaged file and for one of another model.
        """
        if save_restore_connector is not None:
            raise ValueError("save_restore_connector must be None: .nemo files are read in one way only")
        if not validate_access_integrity:
            raise ValueError("validate_access_integrity=False has no effect: a .nemo file is always checked")
        return restore_nemo(cls, restore_path, override_config_path, map_location, strict, return_config, trainer)

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path,
        map_location: torch.device | str | None = None,
        hparams_file: str | Path | None = None,
        strict: bool = True,
        weights_only: bool = True,
        trainer: Trainer | None = None,
    ) -> "ModelPT":
        """The model of a Lightning checkpoint, ours or NeMo's.

        map_location: a device; None: the CPU. strict: as in `restore_from`.
        hparams_file: a yaml whose `cfg` is used instead of the config in the checkpoint.
        Raises as `restore_from`.
        """
        if not weights_only:
            raise ValueError("weights_only=False would run code of the checkpoint: it is always read with True")
        return restore_lightning(cls, checkpoint_path, map_location, hparams_file, strict, trainer)

    def maybe_init_from_pretrained_checkpoint(self, cfg: Mapping, map_location: str = "cpu") -> None:
        """Start from other models' weights, if one of `INIT_FROM` in a whole config names some.

        What didn't fit is logged. A run that goes on from a checkpoint keeps the checkpoint's weights.
        map_location: NeMo's; without effect, since files are read on the CPU.
        Raises ValueError, in one line; see `core.connectors.initial_weights.start_from`.
        """
        start_from(self, cfg, resumed_from=None if self._trainer is None else self._trainer.ckpt_path)


def resolved(cfg: Mapping) -> DictConfig:
    """A copy of a config section that stands alone: references resolved, no key added by accident."""
    if not isinstance(cfg, DictConfig):
        cfg = OmegaConf.create(cfg)
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    OmegaConf.set_struct(cfg, True)
    return cfg
