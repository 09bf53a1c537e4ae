import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import OmegaConf

from tests.utils.tiny_run import TinyModel
from utils.trainer import build_trainer
from utils.training.progress import SpeechProgress
from utils.training.sync_batchnorm import SyncBatchNormOnCpu

QUIET = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
NO_GPU = pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="has a GPU")


def trainer(**options):
    return build_trainer(OmegaConf.create({**QUIET, "accelerator": "cpu", "devices": 1, **options}))


def test_an_unknown_key_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"trainer\.max_step is not a known config key; did you mean 'max_steps'"):
        trainer(max_step=3)


def test_objects_are_refused_by_name():
    with pytest.raises(ValueError, match=r"trainer\.callbacks can't be set from a config"):
        trainer(callbacks=["Timer"])
    assert trainer(callbacks=None, plugins=None)


@NO_GPU
def test_a_missing_gpu_is_named():
    with pytest.raises(ValueError, match=r"trainer\.accelerator=gpu: torch .* finds no GPU"):
        trainer(accelerator="gpu")


@NO_GPU
@pytest.mark.parametrize("accelerator", ["auto", "cpu"])
@pytest.mark.parametrize("devices", [-1, "-1"])
def test_all_gpus_without_a_gpu_means_one_process(accelerator, devices, caplog):
    assert trainer(accelerator=accelerator, devices=devices).num_devices == 1


def test_options_of_ddp_reach_it():
    options = {"gradient_as_bucket_view": True, "bucket_cap_mb": 10, "process_group_backend": "gloo"}
    built = trainer(devices=2, strategy={"_target_": "lightning.pytorch.strategies.DDPStrategy", **options})
    assert isinstance(built.strategy, DDPStrategy)
    assert built.strategy._ddp_kwargs == {"gradient_as_bucket_view": True, "bucket_cap_mb": 10}
    assert built.strategy.process_group_backend == "gloo"


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ({"_target_": "lightning.pytorch.strategies.DPStrategy"}, "did you mean 'lightning.pytorch.strategies.DDPStr"),
        (
            {"_target_": "lightning.pytorch.strategies.DDPStrategy", "static_grap": True},
            r"trainer\.strategy\.static_grap .* did you mean 'static_graph'",
        ),
    ],
)
def test_an_unknown_strategy_or_option_is_refused(strategy, said):
    with pytest.raises(ValueError, match=said):
        trainer(devices=2, strategy=strategy)


@pytest.mark.parametrize("wanted", [True, False])
def test_sync_batchnorm_on_cpus_is_ours(wanted):
    layer_sync = trainer(devices=2, strategy="ddp", sync_batchnorm=wanted).strategy._layer_sync
    assert isinstance(layer_sync, SyncBatchNormOnCpu) == wanted


@pytest.mark.parametrize("shown", [True, False])
def test_the_progress_line_is_ours(shown):
    bars = [c for c in trainer(enable_progress_bar=shown).callbacks if isinstance(c, SpeechProgress)]
    assert len(bars) == shown


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_steps": 9, "val_check_interval": 3}, [3, 6, 9]),  # across epochs of 4 batches
        ({"max_steps": 4, "val_check_interval": 2, "accumulate_grad_batches": 2}, [2, 4]),  # steps, not batches
        ({"max_steps": 3, "val_check_interval": 2500}, [3]),  # shorter than the interval: once, at the end
        ({"max_epochs": 2, "max_steps": -1, "val_check_interval": 2500}, [8]),
        ({"max_epochs": 2, "max_steps": -1, "val_check_interval": 0.5}, [2, 4, 6, 8]),  # of an epoch
        ({"max_epochs": 2, "max_steps": -1, "val_check_interval": 4, "check_val_every_n_epoch": 2}, [8]),
        # longer than an epoch of 4 batches, which Lightning refuses: across epochs
        ({"max_epochs": 3, "max_steps": -1, "val_check_interval": 5, "check_val_every_n_epoch": 1}, [5, 10]),
        ({"max_steps": 6, "val_check_interval": 2500, "check_val_every_n_epoch": 1}, [6]),
        ({"max_steps": 7, "val_check_interval": 3, "check_val_every_n_epoch": 1}, [3, 7]),  # within epochs, as ever
    ],
)
def test_validation_comes_when_it_should(options, steps):
    model = TinyModel(batches=4)
    defaults = {"check_val_every_n_epoch": None, "num_sanity_val_steps": 0, "enable_progress_bar": False}
    trainer(**defaults | options).fit(model)
    assert model.validated_at == steps


def test_an_interval_longer_than_an_epoch_is_said_and_the_trainer_keeps_its_option(log):
    built = trainer(max_steps=6, val_check_interval=6, check_val_every_n_epoch=1, num_sanity_val_steps=0)
    built.fit(TinyModel(batches=4))
    assert "val_check_interval=6 is more batches than an epoch has (4)" in log.text
    assert built.check_val_every_n_epoch == 1


def test_training_goes_without_validation():
    model = TinyModel(validate=False)
    built = trainer(max_steps=2, check_val_every_n_epoch=None, enable_progress_bar=False)
    built.fit(model)
    assert built.global_step == 2 and not model.validated_at
