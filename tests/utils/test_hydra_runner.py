import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from utils.hydra_runner import hydra_runner, one_value


@hydra_runner(config_path="conf", config_name="small")
def read(cfg: DictConfig) -> DictConfig:
    """What a program under the runner sees."""
    return cfg


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> DictConfig:
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    return read()


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


def test_a_yaml_that_cannot_be_read_is_one_line(monkeypatch, capsys, tmp_path):
    assert "not a yaml: " in error_of(monkeypatch, capsys, own_config(tmp_path, "a: [1\n"), "-cn=own")


def test_nothing_is_written_where_it_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run(monkeypatch)
    assert not list(tmp_path.iterdir()) and Path.cwd() == tmp_path


def test_a_config_given_in_python_passes_through():
    assert read(OmegaConf.create({"a": 1})) == {"a": 1}


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
        ("model.encoder.n_layers=1,2", "n_layers=1,2"),
        ("--multirun", "--multirun is not supported: a command is one run"),
        ("-m", "--multirun is not supported"),
        ("--hydra-help", "unrecognized arguments: --hydra-help (--help lists"),
        ("--cfg=all", "--cfg/-c: invalid choice: 'all'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(monkeypatch, capsys, argument, said):
    assert said in error_of(monkeypatch, capsys, argument)


def own_config(folder: Path, text: str, name: str = "own") -> str:
    (folder / f"{name}.yaml").parent.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return f"--config-path={folder}"


CALLS = "hydra: {callbacks: {x: {_target_: shutil.copyfile, src: own.yaml, dst: copied}}}\n"
IMPORTS = """hydra: {job_logging: {version: 1, handlers: {x: {"()": shutil.copyfile, src: own.yaml, dst: copied}}}}\n"""
SEARCHES = "hydra: {searchpath: ['pkg://antigravity']}\n"


@pytest.mark.parametrize("section", [CALLS, IMPORTS, SEARCHES, "hydra: null\n"])
def test_a_yaml_cannot_name_code_to_run(monkeypatch, capsys, tmp_path, section):
    monkeypatch.chdir(tmp_path)
    assert "`hydra:` settings of Hydra's own can name" in error_of(
        monkeypatch, capsys, own_config(tmp_path, section + "a: 1\n"), "-cn=own"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["own.yaml"] and "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ("group/part", f"# @package _global_\n{CALLS}"),
        ("hydra/callbacks/mine", "x: {_target_: shutil.copyfile, src: own.yaml, dst: copied}\n"),
        ("hydra/job_logging/mine", "version: 1\n"),
    ],
)
def test_nor_can_a_yaml_that_it_includes(monkeypatch, capsys, tmp_path, group, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hydra").mkdir()
    own_config(tmp_path, text, group)
    section, _, name = group.rpartition("/")
    override = "override " if section.startswith("hydra") else ""
    path = own_config(tmp_path, f"defaults: [{{{override}{section}: {name}}}, _self_]\na: 1\n")
    assert "can name code to run" in error_of(monkeypatch, capsys, path, "-cn=own")
    assert not (tmp_path / "copied").exists()


@pytest.mark.parametrize(
    "argument",
    ["hydra.run.dir=x", "+hydra.callbacks.x={}", "~hydra.job", "hydra/job_logging=none", "hydra.searchpath=[pkg://os]"],
)
def test_nor_can_the_command_line(monkeypatch, capsys, argument):
    assert f"{argument}: settings of Hydra's own" in error_of(monkeypatch, capsys, argument)


def test_a_second_folder_is_looked_in_too(monkeypatch, tmp_path):
    folder = tmp_path / "it's mine, [all]"
    (folder / "extra").mkdir(parents=True)
    own_config(folder, "n_layers: 7\n", "extra/deep")
    assert run(monkeypatch, "-cd", str(folder), "+extra=deep").extra == {"n_layers": 7}


def test_the_composed_config_can_be_printed_instead(monkeypatch, capsys):
    assert run(monkeypatch, "--cfg", "job", "model.encoder.n_layers=5") is None
    assert OmegaConf.create(capsys.readouterr().out) == run(monkeypatch, "model.encoder.n_layers=5")


def test_help_lists_the_arguments(monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit_info:
        run(monkeypatch, "--help")
    assert exit_info.value.code == 0 and "--config-path" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("key=语音.json", "语音.json"),
        ("key=数据/a b.json", "数据/a b.json"),
        ("key=a(1).json", "a(1).json"),
        ("key=~/x.json", "~/x.json"),
        ("key=a.json,b.json", "a.json,b.json"),
        (r"key=C:\数据\a.json", r"C:\数据\a.json"),
        ("key=3", 3),
        ("key=[1,2]", [1, 2]),
        ("key=null", None),
    ],
)
def test_a_value_is_read_as_it_is_typed(typed, read):
    override = OverridesParser.create().parse_override(one_value(typed))
    assert not override.is_sweep_override()
    assert override.value() == read


def test_a_slip_in_a_list_stays_an_error():
    assert one_value("key=[1,2") == "key=[1,2"
