"""A process of another environment that does tasks: started once, asked over stdin and answering on stdout, as JSON."""

import json
import os
import shlex
import signal
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
HIDES_THE_PROJECT = ("PYTHONSAFEPATH",)  # which is found as the working folder
OF_THIS_PYTHON = ("PYTHONHOME", "PYTHONPATH", "PYTHONPLATLIBDIR", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


class SideFailed(RuntimeError):
    """A task of a side process raised, or the process died: its last words."""

    @property
    def in_one_line(self) -> str:
        """The command with what became of it, and the last line of what it said."""
        first, *rest = str(self).strip().splitlines()
        return f"{first} {rest[-1].strip()}" if rest else first.rstrip(":")


class SideProcess:
    """`python -m module *arguments`, whose main ends in `serve`. Raises SideFailed where a task does, or it dies."""

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
                env=environment_for(python) | dict(environment or {}),
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
            raise SideFailed(self.last_words()) from None
        for line in self.process.stdout:
            if line.startswith(ANSWER) and line.endswith("\n"):  # one that is cut off is of a process that died
                answer = json.loads(line.removeprefix(ANSWER))
                if "error" in answer:
                    raise SideFailed(f"`{shlex.join(self.process.args)}` failed at {task}:\n{answer['error']}")
                return answer
        raise SideFailed(self.last_words())

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def last_words(self) -> str:
        self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().splitlines()[-LAST_LINES:]
        return "\n".join([f"`{shlex.join(self.process.args)}` {how_it_ended(self.process.returncode)}:", *lines])

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


def is_python(python: str) -> bool:
    command = [executable(python), "-c", "print(6 * 7)"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "42"


def environment_for(python: str) -> dict[str, str]:
    """Our environment, for another Python without what would make it look for modules among those of this one."""
    same = os.path.abspath(sys.executable) == executable(python)
    left_out = HIDES_THE_PROJECT if same else HIDES_THE_PROJECT + OF_THIS_PYTHON
    return {name: value for name, value in os.environ.items() if name not in left_out}


def how_it_ended(code: int) -> str:
    if code >= 0:
        return f"stopped with {code}"
    killed = getattr(signal, "SIGKILL", None)
    return f"was killed by signal {-code}{', as where memory runs out' if -code == killed else ''}"


def serve(tasks: Mapping[str, Callable[..., dict]]) -> None:
    """Do what stdin asks for, a JSON object per line, until it ends."""
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            answer = tasks[arguments.pop("task")](**arguments)
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(f"\n{ANSWER}{json.dumps(answer)}", flush=True)  # a library may have left a line open
