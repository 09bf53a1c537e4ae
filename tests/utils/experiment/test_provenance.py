import os
import shutil
import subprocess
import sys

import pytest
import torch

from utils.experiment import provenance
from utils.experiment.provenance import environment, revision, write_provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout with one commit, of a project that holds utils/experiment/provenance.py."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    file = tmp_path / "utils" / "experiment" / "provenance.py"
    file.parent.mkdir(parents=True)
    file.write_text("x = 1\n", encoding="utf-8")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    return tmp_path


def head(folder) -> str:
    return subprocess.check_output(["git", "-C", str(folder), "rev-parse", "HEAD"], text=True).strip()


def test_a_clean_checkout_is_its_commit(checkout):
    assert revision(checkout) == f"commit: {head(checkout)}\nnothing was changed since"


def test_what_was_changed_since_stands_below_the_commit(checkout):
    (checkout / "utils" / "experiment" / "provenance.py").write_text("x = 2\n", encoding="utf-8")
    (checkout / "new.py").touch()
    text = revision(checkout)
    assert text.startswith(f"commit: {head(checkout)}\nchanged since, or new:\n")
    assert "\n M utils/experiment/provenance.py\n?? new.py\n" in text
    assert "-x = 1\n+x = 2" in text


def test_a_huge_difference_is_cut(checkout, monkeypatch):
    monkeypatch.setattr(provenance, "MOST_DIFF", 100)
    (checkout / "utils" / "experiment" / "provenance.py").write_text("y\n" * 1000, encoding="utf-8")
    assert len(revision(checkout)) < 300 and "... cut: " in revision(checkout)


def test_a_folder_that_no_checkout_holds_says_so(tmp_path):
    assert revision(tmp_path).startswith(f"commit: not known, {tmp_path} is no git checkout")


def test_the_checkout_of_something_else_around_the_project_is_not_its_own(checkout):
    inside = checkout / "site-packages"
    (inside / "utils").mkdir(parents=True)
    (inside / "utils" / "provenance.py").touch()
    assert revision(inside).startswith("commit: not known")


def test_without_git_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(provenance.subprocess, "run", no_git)
    assert "git isn't there (No such file" in revision(tmp_path).replace("[Errno 2] ", "")


def no_git(*args, **kwargs):
    raise FileNotFoundError(2, "No such file or directory")


def test_the_environment_is_a_requirements_file_with_a_head():
    lines = environment().splitlines()
    assert lines[0].startswith(f"# Python {'.'.join(map(str, sys.version_info[:3]))} ")
    assert f"torch {torch.__version__}, CUDA {torch.version.cuda}" in lines[1]
    assert all("==" in line for line in lines[2:])
    assert any(line.lower().startswith("lightning==") for line in lines)


def test_command_revision_and_environment_are_files_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "a=1 2", "b=\udce9"])
    write_provenance(tmp_path)
    assert (tmp_path / "cmd-args.log").read_text(encoding="utf-8") == "train.py 'a=1 2' 'b=\\udce9'\n"
    assert (tmp_path / "git-info.log").read_text(encoding="utf-8").startswith("commit: ")
    assert (tmp_path / "environment.txt").read_text(encoding="utf-8").startswith("# Python ")
