"""What a run was made of, in files beside its checkpoints: its command, the revision of its code, what is installed."""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import torch

from utils.checkpoint_files.files import written_whole
from utils.config_check import first_line

COMMAND_FILE, GIT_FILE, ENVIRONMENT_FILE = "cmd-args.log", "git-info.log", "environment.txt"
PROJECT = Path(__file__).resolve().parents[2]
MOST_DIFF = 1_000_000  # characters
GIT_SECONDS = 60


def write_provenance(folder: Path) -> None:
    """NeMo's names for command and revision. What isn't known says so in its file.

    Raises OSError, in one line, where the disk is full.
    """
    texts = {COMMAND_FILE: shlex.join(sys.argv), GIT_FILE: revision(PROJECT), ENVIRONMENT_FILE: environment()}
    for name, text in texts.items():
        with written_whole(folder / name) as unfinished:
            unfinished.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def revision(project: Path) -> str:
    """Commit of the code that runs, and what was changed since; NeMo 3.0.0 records those of the working directory."""
    try:
        git(project, "ls-files", "--error-unmatch", Path(__file__).relative_to(PROJECT).as_posix())
        commit = git(project, "rev-parse", "HEAD")
        status = git(project, "status", "--short", ".")
        diff = git(project, "diff", "HEAD", "--", ".")
    except (OSError, subprocess.SubprocessError) as error:
        reason = first_line(getattr(error, "stderr", None) or error)
        return f"commit: not known, {project} is no git checkout, or git isn't there ({reason})"
    if len(diff) > MOST_DIFF:
        diff = f"{diff[:MOST_DIFF]}\n... cut: {len(diff)} characters in all"
    changed = f"changed since, or new:\n{status}\n\n{diff}" if status else "nothing was changed since"
    return f"commit: {commit}\n{changed}".rstrip()


def git(folder: Path, *arguments: str) -> str:
    """What git prints; raises OSError without git, SubprocessError where it fails or takes too long."""
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        check=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        timeout=GIT_SECONDS,
    )
    return done.stdout.strip("\n")


def environment() -> str:
    """Every installed package as a line of a requirements file, below a head of what isn't a package."""
    lines = [
        f"# Python {platform.python_version()} ({platform.python_implementation()}) on {platform.platform()}",
        f"# torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, "
        f"{torch.cuda.device_count()} GPUs, {os.cpu_count()} CPU cores",
    ]
    packages = {f"{found.metadata['Name']}=={found.version}" for found in distributions()}
    return "\n".join(lines + sorted(packages, key=str.lower))
