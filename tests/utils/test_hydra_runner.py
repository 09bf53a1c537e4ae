import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from utils.hydra_runner import command_line, hydra_runner

CONF = Path(__file__).parent / "conf"


@hydra_runner(config_path="conf", config_name="small")
def read(cfg: DictConfig) -> None:
    """What a program under the runner sees; Hydra gives no return value back."""
    seen.append(cfg)


seen: list[DictConfig] = []


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> DictConfig:
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    read()
    return seen.pop()


def error_of(monkeypatch, capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_info:
        run(monkeypatch, *arguments)
    assert exit_info.value.code == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1, printed
    return printed


def test_overrides_and_groups_compose(monkeypatch):
    cfg = run(monkeypatch, "model.encoder.n_layers=5", "size=tiny")
    assert cfg.model == {"encoder": {"n_layers": 5, "d_model": 8}, "restore_from": None}


def test_a_plus_adds_a_key_and_also_sets_one_that_is_there(monkeypatch):
    cfg = run(monkeypatch, "+model.encoder.reduction=pooling", "+model.restore_from=a.ckpt")
    assert cfg.model.encoder.reduction == "pooling" and cfg.model.restore_from == "a.ckpt"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config-path=other", "--config-name=own"),
        ("--config-path", "other", "-cn", "own"),
        ("a=1", "-cp=other", "-cn=own"),
    ],
)
def test_a_config_path_is_relative_to_the_working_directory(monkeypatch, tmp_path, arguments):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "own.yaml").write_text("a: 2\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == {"a": 1 if "a=1" in arguments else 2}


def test_nothing_is_written_where_it_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run(monkeypatch)
    assert not list(tmp_path.iterdir()) and Path.cwd() == tmp_path


def test_a_config_given_in_python_passes_through():
    read(OmegaConf.create({"a": 1}))
    assert seen.pop() == {"a": 1}


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("model.encoder.nlayers=3", "model.encoder.nlayers is not in the config; did you mean 'n_layers'?"),
        ("modle.encoder.n_layers=3", "modle is not in the config; did you mean 'model'?"),
        ("size=tinny", "did you mean 'tiny'?"),
        ("model.encoder.n_layers=[3", "model.encoder.n_layers=[3: "),
        ("--config-name=smal", "Cannot find primary config 'smal'"),
        ("--config-path=nowhere", "--config-path=nowhere: there is no such folder"),
        ("~model.nothing", "'model.nothing' does not exist"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(monkeypatch, capsys, argument, said):
    assert said in error_of(monkeypatch, capsys, argument)


def test_a_process_that_lightning_starts_reads_the_same_arguments():
    once = command_line(["--config-path", "conf", "+a.b=1", "c=2"], CONF)
    assert command_line([*once, "hydra.run.dir=.", "hydra.output_subdir=null"], CONF) == once
