"""`train.py` on a model of a few thousand weights and half a dozen files of noise."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from models.ssl_models import EncDecDenoiseMaskedTokenPredModel
from tests.tiny_training import TINY_MODEL, write_noise
from train import main
from utils.hydra_runner import compose_config, read_arguments

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    *TINY_MODEL,
    "model.train_ds.batch_size=2",
    "trainer.max_steps=2",
)
STANDING = ("model.optim.lr=0", "model.optim.weight_decay=0", "model.optim.sched.min_lr=0")  # nothing is learned
COMMANDS = {  # as NeMo's users know them
    "gpus": (
        "model.train_ds.manifest_filepath=train.json model.train_ds.noise_manifest=noise.json "
        "model.validation_ds.manifest_filepath=val.json model.validation_ds.noise_manifest=noise.json "
        "trainer.devices=-1 trainer.accelerator=gpu trainer.max_epochs=100"
    ),
    "config_path": (
        "--config-path=config --config-name=nest_fast-conformer model.train_ds.manifest_filepath=train.json "
        "trainer.max_epochs=100"
    ),
    "cpu": (
        "model.train_ds.manifest_filepath=train.json trainer.accelerator=cpu model.optim.lr=0.0001 "
        "model.optim.sched.warmup_steps=1000"
    ),
    "ddp_spawn": (
        "model.train_ds.manifest_filepath=train.json trainer.devices=2 trainer.strategy=ddp_spawn "
        "trainer.sync_batchnorm=true"
    ),
    "ddp": "model.train_ds.manifest_filepath=train.json trainer.strategy=ddp trainer.devices=-1",
    "restore_from": (
        "model.train_ds.manifest_filepath=train.json trainer.max_epochs=200 model.restore_from=checkpoint.nemo"
    ),
    "wandb": (
        "model.train_ds.manifest_filepath=train.json exp_manager.create_wandb_logger=True "
        "exp_manager.wandb_logger_kwargs.name=my_experiment exp_manager.wandb_logger_kwargs.project=ssl_pretraining"
    ),
}


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    """train.json, val.json and noise.json in the working directory: 1.2 s each of low-passed noise."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 4), ("val", 2), ("noise", 2)):
        write_noise(tmp_path, name, [19200] * count, rng)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(*overrides: str, name: str = "nest_fast-conformer") -> DictConfig:
    """What `train.py` would get."""
    return compose_config(read_arguments(overrides, "config", name), ROOT)


def tiny(*overrides: str) -> DictConfig:
    return config(*TINY, "model.train_ds.manifest_filepath=train.json", "trainer.accelerator=cpu", *overrides)


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def run_folder() -> Path:
    return Path("nemo_experiments") / "SSL-NEST-FastConformer"


# a run


def test_a_run_validates_saves_and_logs():
    main(tiny("model.validation_ds.manifest_filepath=val.json", "model.train_ds.noise_manifest=noise.json"))
    names = {path.name for path in run_folder().rglob("*")}
    assert any(re.fullmatch(r"SSL-NEST-FastConformer--val_loss=\d+\.\d{3}-step=2\.ckpt", name) for name in names), names
    assert any(name.startswith("events.out.tfevents") for name in names)


def test_the_config_of_a_run_is_kept_and_runs_again():
    cfg = tiny()
    main(cfg)
    assert OmegaConf.load(run_folder() / "config.yaml") == cfg
    assert not {"log.txt", "cmd-args.log", "hparams.yaml"} - {path.name for path in run_folder().iterdir()}


def test_a_seed_makes_a_run_repeatable():
    def weights(folder: str, seed: int) -> dict[str, torch.Tensor]:
        main(tiny(f"seed={seed}", f"exp_manager.exp_dir={folder}"))
        (last,) = Path(folder).rglob("*last.ckpt")
        return torch.load(last, weights_only=True)["state_dict"]

    first, second, third = weights("a", 1), weights("b", 1), weights("c", 2)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first["decoder.decoder_layers.0.weight"], third["decoder.decoder_layers.0.weight"])


NEMOS_OWN = (  # all that a run on this machine needs over NeMo's file
    "model.train_ds.manifest_filepath=train.json",
    "model.train_ds.noise_manifest=noise.json",
    "model.validation_ds.manifest_filepath=val.json",
    "model.train_ds.num_workers=0",
    "model.validation_ds.num_workers=0",
)


def test_nemos_file_trains_as_it_is(golden):
    """Its `_target_`s, its devices and strategy, and the keys of exp_manager that change nothing."""
    tree = json.loads((golden / "nemo_config" / "nest_fast-conformer.json").read_text(encoding="utf-8"))
    Path("conf").mkdir()
    OmegaConf.save(OmegaConf.create(tree), "conf/nest_fast-conformer.yaml")
    small = [setting for setting in TINY if "min_masks" not in setting]
    done = command("--config-path=conf", "--config-name=nest_fast-conformer", *NEMOS_OWN, *small)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in run_folder().rglob("*")}
    assert any(re.fullmatch(r"SSL-NEST-FastConformer--val_loss=\d+\.\d{3}-step=2\.ckpt", name) for name in names), names
    assert "SSL-NEST-FastConformer.nemo" in names
    assert "val_check_interval=2500 is more batches than an epoch has (2)" in done.stderr


# the commands users know


@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_users_know_compose(name):
    cfg = config(*COMMANDS[name].split())
    assert cfg.model.train_ds.manifest_filepath == "train.json"


@pytest.mark.parametrize("name", ["config_path", "cpu"])
def test_the_commands_for_one_process_train(name):
    main(config(*COMMANDS[name].split(), *TINY))
    assert list(run_folder().rglob("*last.ckpt"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_the_command_for_gpus_says_what_is_missing():
    with pytest.raises(ValueError, match=r"^trainer\.accelerator=gpu: torch .* finds no GPU"):
        main(config(*COMMANDS["gpus"].split(), *TINY))


def saved_model(**changes: int) -> tuple[str, dict[str, torch.Tensor]]:
    """A .nemo file of a model like the runs', and its weights."""
    cfg = tiny().model
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value)
    model = EncDecDenoiseMaskedTokenPredModel(cfg)
    model.save_to("checkpoint.nemo")
    return "checkpoint.nemo", model.state_dict()


def last_state() -> dict[str, torch.Tensor]:
    (last,) = run_folder().rglob("*last.ckpt")
    return torch.load(last, weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    "override",
    [
        "init_from_nemo_model=checkpoint.nemo",
        "+init_from_nemo_model.first={path: checkpoint.nemo, include: [quantizer, encoder]}",
        "+init_from_pretrained_model=checkpoint.nemo",
        "init_from_ptl_ckpt=checkpoint.ckpt",
    ],
)
def test_a_run_starts_from_the_weights_of_a_file(override):
    _, theirs = saved_model()
    torch.save({"state_dict": theirs}, "checkpoint.ckpt")
    main(tiny(override, *STANDING))
    ours = last_state()
    assert torch.equal(ours["encoder.pre_encode.out.weight"], theirs["encoder.pre_encode.out.weight"])
    assert torch.equal(ours["quantizer.codebooks"], theirs["quantizer.codebooks"])


def test_a_run_restores_a_model_of_other_sizes_than_its_config_says():
    _, theirs = saved_model(**{"encoder.d_model": 8})
    main(config(*COMMANDS["restore_from"].split(), *TINY, "trainer.accelerator=cpu", *STANDING))
    ours = last_state()
    assert ours["encoder.pre_encode.out.weight"].shape[0] == 8
    assert torch.equal(ours["encoder.pre_encode.out.weight"], theirs["encoder.pre_encode.out.weight"])


def test_a_run_that_goes_on_reads_no_initial_weights(log):
    main(tiny())
    before = last_state()
    saved_model()
    main(tiny("init_from_nemo_model=checkpoint.nemo", "trainer.max_steps=3", *STANDING))
    assert "checkpoint.nemo is not read" in log.text
    assert torch.equal(last_state()["quantizer.codebooks"], before["quantizer.codebooks"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.restore_from=checkpoint.nemo", "model.restore_from=checkpoint.nemo doesn't exist"),
        ("init_from_nemo_model=checkpoint.nemo", "init_from_nemo_model=checkpoint.nemo is no file here"),
        ("+init_from_pretrained_model=ssl_en_nest_large_v1.0", "is no file here: download the model"),
        ("init_from_ptl_ckpt=checkpoint.ckpt", "init_from_ptl_ckpt=checkpoint.ckpt is no file here"),
        ("+model.init_from_nemo_model=checkpoint.nemo", "move it to the top level"),
    ],
)
def test_a_start_from_nothing_is_refused_in_one_line(override, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said) as raised:
        main(tiny(override))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["ddp_spawn", "ddp"])
def test_the_commands_for_several_processes_train(name):
    done = command(*COMMANDS[name].split(), *TINY, "trainer.accelerator=cpu")
    assert done.returncode == 0, done.stderr
    (last,) = run_folder().rglob("*last.ckpt")
    saved = torch.load(last, weights_only=True)
    assert saved["global_step"] == 2
    assert saved["state_dict"]["encoder.layers.0.conv.batch_norm.num_batches_tracked"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["trainer.strategy=ddp", "--config-name=nest_fast-conformer_ddp_example"])
def test_processes_that_lightning_starts_train_too(strategy):
    devices = ("trainer.devices=2", "trainer.accelerator=cpu")
    done = command(strategy, "model.train_ds.manifest_filepath=train.json", *devices, *TINY)
    assert done.returncode == 0, done.stderr
    assert len(list(run_folder().rglob("*last.ckpt"))) == 1


@pytest.mark.slow
def test_a_rank_that_is_left_without_an_utterance_stops_no_run(data):
    """With synced batch norms, as by default: the other rank waits for its share of the statistics."""
    lines = (data / "train.json").read_text(encoding="utf-8").splitlines()
    (data / "train.json").write_text("\n".join(lines[:3]), encoding="utf-8")
    done = command(
        "model.train_ds.manifest_filepath=train.json",
        "trainer.strategy=ddp",
        "trainer.devices=2",
        "trainer.accelerator=cpu",
        *TINY,
        "model.train_ds.batch_size=1",
        "model.train_ds.drop_last=false",
        "trainer.max_steps=4",
    )
    assert done.returncode == 0, done.stderr


# mistakes


def test_a_mistake_on_the_command_line_is_one_line():
    done = command("model.encoder.nlayers=3")
    assert done.returncode == 1
    assert done.stderr.startswith("error: model.encoder.nlayers is not in the config; did you mean 'n_layers'?")
    assert done.stderr.count("\n") == 1 and not done.stdout


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+model.encoder.nlayers=3", r"model\.encoder\.nlayers .*did you mean 'n_layers'"),
        ("+model.encodr={}", r"model\.encodr .*did you mean 'encoder'"),
        ("+modle={}", "modle .*did you mean 'model'"),
        ("+trainer.max_step=3", r"trainer\.max_step .*did you mean 'max_steps'"),
        ("+exp_manager.exp_dri=x", r"exp_manager\.exp_dri .*did you mean 'exp_dir'"),
        ("+exp_manager.ema.decai=1", r"exp_manager\.ema\.decai .*did you mean 'decay'"),
        ("+model.train_ds.batch_sise=3", r"model\.train_ds\.batch_sise .*did you mean 'batch_size'"),
        ("+model.train_ds.batch_augmentor.prop=3", r"model\.train_ds\.batch_augmentor\.prop .*did you mean 'prob'"),
        ("+model.optim.beta=3", r"optim\.beta .*did you mean 'betas'"),
        ("+model.optim.sched.warmup=3", r"optim\.sched\.warmup .*did you mean 'warmup_"),
        ("model.encoder.n_heads=3", "n_heads"),
        ("model.train_ds.manifest_filepath=nothing.json", r"model\.train_ds\.manifest_filepath: .*nothing.* dummy"),
        ("model.train_ds.min_duration=5", r"model\.train_ds.*min_duration"),
    ],
)
def test_a_config_that_cannot_be_right_is_refused_in_one_line(override, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said) as raised:
        main(tiny(override))
    assert "\n" not in str(raised.value)
