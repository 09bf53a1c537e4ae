"""A process of another environment that does tasks: started once, asked over stdin and answering on stdout, as JSON."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

ANSWER = "@answer "  # libraries print to stdout, too
ROOT = Path(__file__).resolve().parents[1]
LAST_LINES = 15  # of what a process that died had to say
NOT_HANDED_ON = ("PYTHONHOME", "PYTHONSAFEPATH", "__PYVENV_LAUNCHER__")  # of this Python; another one is misled


class SideProcess:
    """`python -m module *arguments`, whose main ends in `serve`. Raises RuntimeError where a task does, or it dies."""

    def __init__(self, python: str, module: str, *arguments: str, environment: Mapping[str, str] | None = None):
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed at exit)
        try:
            self.process = subprocess.Popen(
                [executable(python), "-m", module, *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                encoding="utf-8",
                errors="replace",  # what libraries print; answers are ASCII
                env={k: v for k, v in os.environ.items() if k not in NOT_HANDED_ON} | dict(environment or {}),
            )
        except OSError as error:
            self.errors.close()
            raise ValueError(f"{python} can't be started ({error}): give the path of a Python") from None

    def __call__(self, task: str, /, **arguments) -> dict:
        """What the task of that name returns."""
        try:
            self.process.stdin.write(json.dumps({"task": task, **arguments}) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise RuntimeError(self.last_words()) from None
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                answer = json.loads(line.removeprefix(ANSWER))
                if "error" in answer:
                    raise RuntimeError(f"`{shlex.join(self.process.args)}` failed at {task}:\n{answer['error']}")
                return answer
        raise RuntimeError(self.last_words())

    def last_words(self) -> str:
        self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().splitlines()[-LAST_LINES:]
        return "\n".join([f"`{shlex.join(self.process.args)}` stopped with {self.process.returncode}:", *lines])

    def __enter__(self) -> "SideProcess":
        return self

    def __exit__(self, *exception) -> None:
        """Let it end by itself; after an error or Ctrl-C don't wait for the task underway."""
        if any(exception):
            self.process.terminate()
        with suppress(OSError):  # it died and left a task unread, which has been told
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def executable(python: str) -> str:
    """A path as seen from here, where the process starts elsewhere; a bare name is looked up in PATH."""
    python = os.path.expanduser(python)
    return os.path.abspath(python) if os.path.dirname(python) else python  # not resolved: a link may be a venv


def serve(tasks: Mapping[str, Callable[..., dict]]) -> None:
    """Do what stdin asks for, a JSON object per line, until it ends."""
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            answer = tasks[arguments.pop("task")](**arguments)
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(f"\n{ANSWER}{json.dumps(answer)}", flush=True)  # a library may have left a line open
