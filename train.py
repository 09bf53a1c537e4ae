"""Pretrain a NEST model: config -> trainer, model, experiment -> fit.

    python train.py model.train_ds.manifest_filepath=train.json model.train_ds.noise_manifest=noise.json

Config: config/nest_fast-conformer.yaml, or what --config-path and --config-name say; every key can be set on the
command line. An error of the user's is one line; NEST_SSL_TRACEBACK=1 in the environment shows where it came from.
"""

from lightning.pytorch import Trainer, seed_everything
from omegaconf import DictConfig

from core.connectors.initial_weights import INIT_KEYS, initial_parts
from core.connectors.save_restore import restore_for_run
from models.ssl_models import EncDecDenoiseMaskedTokenPredModel
from utils.config_check import refuse_unknown_keys
from utils.exp_manager import exp_manager, keep_config
from utils.hydra_runner import hydra_runner
from utils.trainer import build_trainer

SECTIONS = ("name", "seed", "model", "trainer", "exp_manager")


@hydra_runner(config_path="config", config_name="nest_fast-conformer")
def main(cfg: DictConfig) -> None:
    refuse_unknown_keys(cfg, SECTIONS + INIT_KEYS, "")
    if cfg.get("seed") is not None:
        seed_everything(cfg.seed, workers=True)
    initial_parts(cfg)  # a wrong path is said before the run has a folder
    trainer = build_trainer(cfg.trainer)
    model = build_model(cfg, trainer)
    has_validation = model.names_data(cfg.model.get("validation_ds"))
    folder = exp_manager(trainer, cfg.get("exp_manager"), has_validation=has_validation)
    keep_config(cfg, folder)
    model.maybe_init_from_pretrained_checkpoint(cfg)
    trainer.fit(model)


def build_model(cfg: DictConfig, trainer: Trainer) -> EncDecDenoiseMaskedTokenPredModel:
    """A new model, or that of the file that `model.restore_from` names."""
    if cfg.model.get("restore_from") is not None:
        return restore_for_run(EncDecDenoiseMaskedTokenPredModel, cfg, trainer)
    return EncDecDenoiseMaskedTokenPredModel(cfg=cfg.model, trainer=trainer)


if __name__ == "__main__":
    main()
