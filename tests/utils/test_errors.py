import traceback

import pytest
import torch
from lightning.pytorch import Trainer
from omegaconf import OmegaConf
from torch.multiprocessing.spawn import ProcessRaisedException

from utils.errors import SHOW_TRACEBACK, one_line_errors, users_mistake


def ours():
    raise ValueError("one_key=3 is wrong:\n  take 4")


def torchs():
    torch.zeros(2).reshape(3)


def lightnings():
    Trainer(accelerator="nonsense", logger=False)


def missing():
    return OmegaConf.create({"a": "???"}).a


@pytest.mark.parametrize(
    ("raise_it", "line"), [(ours, "error: one_key=3 is wrong: take 4"), (missing, "error: Missing")]
)
def test_a_users_mistake_is_one_line_and_exit_code_1(raise_it, line, capsys):
    with pytest.raises(SystemExit) as exit_info, one_line_errors():
        raise_it()
    printed = capsys.readouterr().err
    assert exit_info.value.code == 1
    assert printed.startswith(line) and printed.count("\n") == 1


def test_lightnings_complaint_about_an_option_is_a_users_mistake(capsys):
    with pytest.raises(SystemExit), one_line_errors():
        lightnings()
    assert capsys.readouterr().err.startswith("error: ")


def test_a_program_that_writes_files_says_which_one_it_cannot_write(tmp_path, capsys):
    with pytest.raises(FileNotFoundError), one_line_errors(2):  # innermost is pathlib
        (tmp_path / "no" / "folder").mkdir()
    with pytest.raises(SystemExit) as exit_info, one_line_errors(2, also=(OSError,)):
        (tmp_path / "no" / "folder").mkdir()
    assert exit_info.value.code == 2 and "folder" in capsys.readouterr().err


def test_an_error_inside_torch_keeps_its_traceback():
    with pytest.raises(RuntimeError), one_line_errors():
        torchs()
    with pytest.raises(ValueError, match="expected 2D"), one_line_errors():  # a ValueError, but from within torch
        torch.nn.BatchNorm1d(2)(torch.zeros(2))


def test_the_environment_brings_the_traceback_back(monkeypatch):
    monkeypatch.setenv(SHOW_TRACEBACK, "1")
    with pytest.raises(ValueError), one_line_errors():
        ours()


def test_another_rank_says_who_it_is(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit), one_line_errors():
        ours()
    assert capsys.readouterr().err.startswith("error (rank 1): ")


@pytest.mark.parametrize(("raise_it", "is_users"), [(ours, True), (missing, True), (torchs, False)])
def test_an_error_in_a_spawned_process_is_judged_by_its_text(raise_it, is_users):
    try:
        raise_it()
    except Exception:
        text = f"\n\n-- Process 1 terminated with the following error:\n{traceback.format_exc()}"
    assert (users_mistake(ProcessRaisedException(text, 1, 2)) is not None) == is_users
