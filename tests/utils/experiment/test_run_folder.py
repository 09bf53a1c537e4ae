from pathlib import Path

import pytest

from utils.checkpoint_files.files import UNFINISHED
from utils.experiment.exp_config import ExpManagerConfig
from utils.experiment.run_folder import check_copies, next_number, prepare, run_folder
from utils.logging import logger, own_file


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_files_of_an_earlier_run_are_set_aside_and_nothing_else(tmp_path):
    of_a_run = {"log.txt", "log_globalrank-1_localrank-1.txt", "cmd-args.log", "git-info.log", "environment.txt"}
    others = {"rejects.jsonl", "metrics.csv", "events.out.tfevents.1", "logger_runs.json"}
    for name in of_a_run | others:
        (tmp_path / name).touch()
    prepare(tmp_path)
    assert {path.name for path in (tmp_path / "run_0").iterdir()} == of_a_run
    assert {path.name for path in tmp_path.iterdir()} == others | {"run_0"}


def test_a_set_aside_run_is_never_overwritten(tmp_path):
    for name in ("run_0", "run_7", "run_old"):
        (tmp_path / name).mkdir()
    (tmp_path / "log.txt").touch()
    prepare(tmp_path)
    assert (tmp_path / "run_8" / "log.txt").exists()


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    left = tmp_path / "checkpoints" / f"a.ckpt.0123abcd{UNFINISHED}"
    left.touch()
    prepare(tmp_path)
    assert not left.exists()


def test_numbers_count_on_from_the_highest(tmp_path):
    assert next_number(tmp_path, "version_") == 0
    for name in ("version_3", "version_10", "version_x"):
        (tmp_path / name).mkdir()
    assert next_number(tmp_path, "version_") == 11


def test_the_log_of_a_run_that_failed_in_this_process_is_set_aside_too(tmp_path):
    own_file.open(tmp_path / "log.txt")
    prepare(tmp_path)
    own_file.open(tmp_path / "log.txt")
    logger.info("of the second run")
    own_file.close()
    assert "second" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "second" not in (tmp_path / "run_0" / "log.txt").read_text(encoding="utf-8")


def test_a_copied_file_replaces_that_of_the_earlier_run_which_is_set_aside(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for text in ("first", "second"):
        Path("notes.md").write_text(text, encoding="utf-8")
        prepare(folder, ["notes.md"])
    assert (folder / "notes.md").read_text(encoding="utf-8") == "second"
    assert (folder / "run_0" / "notes.md").read_text(encoding="utf-8") == "first"


def test_a_file_that_is_in_the_folder_already_stays(tmp_path):
    Path("notes.md").write_text("mine", encoding="utf-8")
    prepare(tmp_path, ["notes.md"])
    assert Path("notes.md").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("names", [["a/config.yaml"], ["a/x.txt", "b/x.txt"], ["a/log_mine.txt"]])
def test_a_copy_that_would_be_overwritten_is_refused(names):
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    with pytest.raises(ValueError, match=rf"exp_manager\.files_to_copy: {names[0]} would be overwritten"):
        check_copies(names)


def test_the_home_folder_may_be_written_as_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert run_folder(ExpManagerConfig(exp_dir="~/runs", version="a")) == tmp_path / "runs" / "default" / "a"
    assert run_folder(ExpManagerConfig(explicit_log_dir="~/here")) == tmp_path / "here"
