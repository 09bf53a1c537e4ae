import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from tests.utils.tiny_run import TinyModel
from utils.exp_manager import exp_manager
from utils.experiment import loggers
from utils.experiment.csv_logger import TableLogger
from utils.experiment.exp_config import read_exp_config
from utils.experiment.loggers import build_loggers, read_run_ids

RESUME = {"resume_if_exists": True, "resume_ignore_no_checkpoint": True, "create_tensorboard_logger": False}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(loggers.FILE_STORE_VARIABLE, "true")
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_RUN_ID"):
        monkeypatch.delenv(variable, raising=False)


def run(options: dict, max_steps: int) -> Path:
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, max_steps=max_steps,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=1,
    )  # fmt: skip
    folder = exp_manager(trainer, {"name": "exp", "log_step_timing": False, **options})
    trainer.fit(TinyModel(batches=4))
    return folder


def build(options: dict, folder: Path, goes_on: bool = False) -> list:
    return build_loggers(read_exp_config({"create_tensorboard_logger": False, **options}), folder, goes_on)


def test_all_loggers_work_together(tmp_path):
    pytest.importorskip("mlflow")
    options = {"create_tensorboard_logger": True, "create_csv_logger": True, "create_mlflow_logger": True}
    folder = run({**RESUME, **options}, max_steps=2)
    assert list(folder.glob("events.out.tfevents*")) and (folder / "metrics.csv").exists()
    assert json.loads((folder / "logger_runs.json").read_text(encoding="utf-8")).keys() == {"mlflow"}


def test_the_table_of_a_resumed_run_goes_on(tmp_path):
    for max_steps in (2, 4):
        folder = run({**RESUME, "create_csv_logger": True}, max_steps)
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        trained = [line["step"] for line in csv.DictReader(file) if line["train_loss"]]
    assert trained == ["0", "1", "2", "3"]


# TensorBoard


def test_tensorboard_writes_into_the_folder_itself(tmp_path):
    (logger,) = build({"create_tensorboard_logger": True}, tmp_path)
    assert isinstance(logger, TensorBoardLogger) and Path(logger.log_dir) == tmp_path


@pytest.mark.parametrize("key", ["log_dir", "save_dir", "name", "version"])
def test_what_names_tensorboards_folder_is_refused(tmp_path, key):
    with pytest.raises(ValueError, match=rf"exp_manager\.summary_writer_kwargs\.{key}: leave it out"):
        build({"create_tensorboard_logger": True, "summary_writer_kwargs": {key: "x"}}, tmp_path)


def test_options_of_the_summary_writer_reach_it_or_are_refused(tmp_path):
    (logger,) = build({"create_tensorboard_logger": True, "summary_writer_kwargs": {"flush_secs": 7}}, tmp_path)
    assert logger._kwargs == {"flush_secs": 7}
    with pytest.raises(ValueError, match=r"summary_writer_kwargs\.flush_sec .*did you mean 'flush_secs'"):
        build({"create_tensorboard_logger": True, "summary_writer_kwargs": {"flush_sec": 7}}, tmp_path)


# MLflow


def test_mlflow_logs_into_files_and_a_resumed_run_goes_on_in_the_same_run(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    for max_steps in (2, 4):
        folder = run({**RESUME, "create_mlflow_logger": True}, max_steps)
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("exp")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == read_run_ids(folder)["mlflow"] and found.info.run_name == "exp"
    steps = [metric.step for metric in client.get_metric_history(found.info.run_id, "train_loss")]
    assert steps == [0, 1, 2, 3]


def test_a_new_run_is_a_new_run_at_mlflow():
    pytest.importorskip("mlflow")
    options = {"create_mlflow_logger": True, "create_tensorboard_logger": False, "version": "a"}
    first, second = (read_run_ids(run(options, max_steps=1))["mlflow"] for _ in range(2))
    assert first != second


def test_an_mlflow_run_that_is_gone_is_begun_anew_with_a_warning(tmp_path, log):
    pytest.importorskip("mlflow")
    (tmp_path / "logger_runs.json").write_text('{"mlflow": "0123456789abcdef"}', encoding="utf-8")
    (logger,) = build({"create_mlflow_logger": True}, tmp_path, goes_on=True)
    assert "MLflow run 0123456789abcdef can't be resumed; a new run starts" in log.text
    assert logger.run_id not in (None, "0123456789abcdef")


def test_options_of_mlflow_reach_it(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    given = {
        "experiment_name": "e", "run_name": "r", "tracking_uri": f"file:{tmp_path}/x", "tags": {"a": "b"},
        "prefix": "p", "artifact_location": f"file:{tmp_path}/y", "run_id": "i", "log_model": True,
    }  # fmt: skip
    (logger,) = build({"create_mlflow_logger": True, "mlflow_logger_kwargs": given}, tmp_path)
    names = {"experiment_name": "_experiment_name", "run_name": "_run_name", "tracking_uri": "_tracking_uri"}
    names |= {"prefix": "_prefix", "artifact_location": "_artifact_location", "run_id": "_run_id"}
    assert {key: getattr(logger, names.get(key, f"_{key}" if key != "tags" else key)) for key in given} == given
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/z")
    (logger,) = build({"create_mlflow_logger": True}, tmp_path)
    assert logger._tracking_uri == f"file:{tmp_path}/z"
    (logger,) = build({"create_mlflow_logger": True, "mlflow_logger_kwargs": {"save_dir": "there"}}, tmp_path)
    assert logger._tracking_uri == f"file:{tmp_path}/z"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (logger,) = build({"create_mlflow_logger": True, "mlflow_logger_kwargs": {"save_dir": "there"}}, tmp_path)
    assert logger._tracking_uri == (tmp_path / "there").as_uri()


# Weights & Biases, which isn't installed where the tests run


def wandb_run(folder: Path, goes_on: bool, **kwargs) -> str:
    (logger,) = build({"create_wandb_logger": True, "wandb_logger_kwargs": kwargs}, folder, goes_on)
    assert isinstance(logger, WandbLogger)
    trainer = SimpleNamespace(is_global_zero=True, loggers=[logger])
    logger.experiment  # noqa: B018  (Lightning begins the run so, before callbacks' setup)
    loggers.KeepLoggers(folder).setup(trainer, None, "fit")
    return logger.version


def test_a_resumed_run_goes_on_in_the_same_run_at_wandb_and_a_new_one_does_not(tmp_path, wandb):
    first = wandb_run(tmp_path, goes_on=False)
    assert wandb_run(tmp_path, goes_on=True) == first
    assert wandb_run(tmp_path, goes_on=False) != first
    assert wandb.started == [None, first, None]


def test_an_id_that_the_user_gives_wins(tmp_path, wandb, monkeypatch):
    wandb_run(tmp_path, goes_on=False)
    assert wandb_run(tmp_path, goes_on=True, id="mine") == "mine"
    monkeypatch.setenv("WANDB_RUN_ID", "from-the-environment")
    wandb_run(tmp_path, goes_on=True)
    assert wandb.started[-1] is None  # so W&B takes its variable


def test_a_wrong_option_of_wandb_is_refused_by_name(tmp_path, wandb):
    with pytest.raises(ValueError, match=r"exp_manager\.wandb_logger_kwargs\.projet .* did you mean 'project'"):
        build({"create_wandb_logger": True, "wandb_logger_kwargs": {"projet": "ssl"}}, tmp_path)


# what is kept


@pytest.mark.parametrize("text", ["", "{", "[]", '{"wandb": 5}'])
def test_a_broken_file_of_run_ids_is_none(tmp_path, text):
    (tmp_path / "logger_runs.json").write_text(text, encoding="utf-8")
    assert read_run_ids(tmp_path) == {}


def test_the_table_is_ours(tmp_path):
    (logger,) = build({"create_csv_logger": True}, tmp_path)
    assert isinstance(logger, TableLogger)
    logger.log_metrics({"a": torch.tensor(1.0)}, 0)
    assert (tmp_path / "metrics.csv").read_text(encoding="utf-8") == "step,a\n0,1.0\n"
