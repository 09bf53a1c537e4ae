"""Set up this project and try it. Needs nothing but Python 3.10 to 3.13; works on Linux, macOS and Windows.

    python quickstart.py train    install, synthesise speech, train a small model for some minutes, say what it learned
    python quickstart.py test     install, run the tests, but for those that are slow or need a GPU or NeMo
    python quickstart.py setup    only install

Everything goes into a virtual environment, .venv by default. What follows `train` goes to train.py and what follows
`test` to pytest, e.g. `python quickstart.py train trainer.max_steps=2000` or `python quickstart.py test tests/data`.
"""

from __future__ import annotations  # so that an old Python gets as far as being told that it is too old

import argparse
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)
OLDEST_TORCH = (2, 4)
CONSTRAINTS, REQUIREMENTS = "constraints.txt", "requirements-dev.txt"
DATA = "data/dummy_ssl"
RUNS = "nemo_experiments/quickstart"
TIME_LIMIT = "exp_manager.max_time_per_run=00:00:08:00"  # of training, on a slow machine
LEFT_OUT_BY_DEFAULT = "not slow and not gpu and not nemo"
RUN_FOLDER_KEY = "exp_manager.explicit_log_dir="
BIG_DOWNLOAD = re.compile(r"\s*Downloading (?:\S*/)?(\S+) \((\d+[\d.]* (?:MB|GB))\)")


class Problem(Exception):
    """Something the user can put right; the message says how."""


def main(arguments: list[str] | None = None) -> int:
    try:
        check_python(sys.version_info[:2])
        args, extra = parse_arguments(arguments)
        os.chdir(ROOT)
        return COMMANDS[args.command](args, extra)
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def check_python(version: tuple[int, ...]) -> None:
    if not OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        raise Problem(
            f"this is Python {dotted(version)}; start quickstart.py with Python {dotted(OLDEST_PYTHON)} "
            f"to {dotted(NEWEST_PYTHON)}"
        )


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in version)


def parse_arguments(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{train,test,setup}")
    train = commands.add_parser("train", help="train a small model; further arguments are for train.py")
    test = commands.add_parser("test", help="run the tests; further arguments are for pytest")
    test.add_argument("--all", action="store_true", help="run the slow, gpu and nemo tests too, where they can run")
    setup = commands.add_parser("setup", help="only install")
    for command in (train, test, setup):
        command.add_argument("--venv", type=Path, default=ROOT / ".venv", help="virtual environment (default: .venv)")
    args, extra = parser.parse_known_args(arguments)
    if args.command == "setup" and extra:
        parser.error(f"setup takes no further arguments: {shlex.join(extra)}")
    args.venv = args.venv.absolute()
    return args, extra


# the three commands


def command_setup(args: argparse.Namespace, extra: list[str]) -> int:
    python = set_up(args.venv)
    say(f"Ready. Its Python is {python}")
    return 0


def command_train(args: argparse.Namespace, overrides: list[str]) -> int:
    python = set_up(args.venv)
    say("Synthesising speech and noise")
    run(python, "tools/prepare_dummy_ssl_data.py", "--output_dir", DATA, quiet=True)

    run_folder = f"{RUNS}/{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    given = [argument for argument in overrides if argument.startswith(RUN_FOLDER_KEY)]
    if given:
        run_folder = given[-1][len(RUN_FOLDER_KEY) :]
    else:
        overrides = [RUN_FOLDER_KEY + run_folder, *overrides]
    say("Training a small model: some minutes on two CPU cores, at most eight; less on more cores or on a GPU")
    run(python, "train.py", "--config-name=quickstart", TIME_LIMIT, *overrides)

    checkpoint = newest_checkpoint(Path(run_folder))
    picture, numbers = f"{run_folder}/guesses.png", f"{run_folder}/evaluation.json"
    say("Asking it for hidden codes of talkers that it hasn't heard")
    run(python, "tools/evaluate_ssl.py", str(checkpoint), "--untrained", "--plot", picture, "--json", numbers)
    result = json.loads(Path(numbers).read_text(encoding="utf-8"))
    say("Done")
    print(what_was_learned(result))
    print(where_it_is(run_folder, checkpoint, picture))
    print(what_next(python))
    return 0


def command_test(args: argparse.Namespace, pytest_arguments: list[str]) -> int:
    python = set_up(args.venv)
    selection = [] if args.all else ["-m", LEFT_OUT_BY_DEFAULT]
    say("Running the tests" + ("" if args.all else " that are not slow and need neither a GPU nor NeMo"))
    code, last_line = run_and_echo([str(python), "-m", "pytest", *selection, *pytest_arguments])
    left_out, skipped = (counted(word, last_line) for word in ("deselected", "skipped"))
    if not args.all:
        print(f"Left out: {left_out} tests that are slow or need a GPU or NeMo; test --all runs what this machine can.")
    if skipped:
        print(f"Skipped: {skipped} tests, for the reasons given above.")
    return code


COMMANDS = {"train": command_train, "test": command_test, "setup": command_setup}


# installing


def set_up(venv: Path) -> Path:
    """Make the virtual environment and install what constraints.txt says, unless that is done; returns its Python.

    A torch that is there already stays: one in an environment given with --venv, or one of the Python that runs this.
    """
    python, stamp = venv_python(venv), venv / "quickstart.json"
    wanted = fingerprint()
    done = json.loads(stamp.read_text(encoding="utf-8")) if stamp.is_file() else {}
    if python.is_file() and done.get("fingerprint") == wanted:
        return python
    if not python.is_file():
        make_venv(venv)
    torch = None if done.get("torch_is_ours") else installed_torch(python)
    say("Installing; the first time this downloads torch and other packages and takes some minutes")
    constraints = venv / "quickstart-constraints.txt"
    constraints.write_text(constraints_with(torch), encoding="utf-8")
    if torch is None:
        pip_install(python, pinned_torch())  # first and alone, so that nothing else decides which build is taken
    pip_install(python, "-r", REQUIREMENTS, "-c", str(constraints))
    stamp.write_text(json.dumps({"fingerprint": wanted, "torch_is_ours": torch is None}), encoding="utf-8")
    return python


def venv_python(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def fingerprint() -> str:
    """Changes when what is to be installed changes."""
    files = (ROOT / name for name in ("requirements.txt", "requirements-convert.txt", REQUIREMENTS, CONSTRAINTS))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def make_venv(venv: Path) -> None:
    say(f"Making a virtual environment in {venv}")
    command = [sys.executable, "-m", "venv", str(venv)]
    if is_new_enough(torch_of_this_python()):
        command.append("--system-site-packages")
    made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if made.returncode:
        raise Problem(
            f"no virtual environment could be made in {venv} (on Debian and Ubuntu: apt install python3-venv):\n"
            + made.stdout.strip()
        )


def torch_of_this_python() -> str | None:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def installed_torch(python: Path) -> str | None:
    """Version of the torch that this Python has, if it is recent enough to keep."""
    code = "from importlib import metadata; print(metadata.version('torch'))"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, env=child_environment())
    version = found.stdout.strip()
    return version if found.returncode == 0 and is_new_enough(version) else None


def is_new_enough(version: str | None) -> bool:
    return version is not None and release(version) >= OLDEST_TORCH


def release(version: str) -> tuple[int, int]:
    """'2.6.0+cu124' -> (2, 6)"""
    numbers = re.findall(r"\d+", version)
    return int(numbers[0]), int(numbers[1])


def pinned_torch() -> str:
    lines = (ROOT / CONSTRAINTS).read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def constraints_with(torch: str | None) -> str:
    """constraints.txt, but for a torch that is to stay: that one, and a torchaudio no newer than it."""
    lines = (ROOT / CONSTRAINTS).read_text(encoding="utf-8").splitlines()
    if torch is not None:
        major, minor = release(torch)
        kept = [line for line in lines if not line.startswith(("torch==", "torchaudio=="))]
        lines = [*kept, f"torch=={torch}", f"torchaudio<{major}.{minor + 1}"]
    return "\n".join(lines) + "\n"


def pip_install(python: Path, *what: str) -> None:
    """Say which big files are fetched; on failure show the end of pip's output."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", *what]
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=child_environment()
    ) as pip:
        for line in pip.stdout:
            lines.append(line)
            if big := BIG_DOWNLOAD.match(line):
                print(f"  {big[1]} ({big[2]})", flush=True)
            elif line.startswith("Installing collected packages"):
                print("  unpacking", flush=True)
    if pip.returncode:
        raise Problem(
            f"installing failed (is there a network connection, and a proxy in HTTPS_PROXY where one is needed?). "
            f"The command was:\n  {shlex.join(command)}\nand ended with:\n{''.join(lines[-15:])}"
        )


# running


def run(python: Path, *arguments: str, quiet: bool = False) -> None:
    """Run a script of this project; what it writes is seen, unless quiet and well."""
    done = subprocess.run(
        [str(python), *arguments],
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        env=child_environment(),
    )
    if done.returncode:
        if quiet:
            print(done.stdout.decode("utf-8", errors="replace"), file=sys.stderr)
        raise Problem(f"{arguments[0]} ended with exit code {done.returncode}; its message is above")


def run_and_echo(command: list[str]) -> tuple[int, str]:
    """Exit code and last line of a command, whose output is shown as it comes."""
    last_line = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=child_environment()) as child:
        for raw in child.stdout:
            line = raw.decode("utf-8", errors="replace").rstrip()
            print(line, flush=True)
            last_line = line or last_line
    return child.returncode, last_line


def child_environment() -> dict[str, str]:
    """Scripts write UTF-8, whatever a Windows console's code page is; PYTHONPATH of elsewhere stays out."""
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
    environment.pop("PYTHONPATH", None)
    return environment


def counted(word: str, pytest_closing_line: str) -> int:
    """The number before `word`: 3 for 'deselected' in '58 passed, 3 deselected in 1.98s'."""
    found = re.search(rf"(\d+) {word}", pytest_closing_line)
    return int(found[1]) if found else 0


def newest_checkpoint(run_folder: Path) -> Path:
    found = sorted(run_folder.glob("checkpoints/*-last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise Problem(f"training left no checkpoint in {run_folder.as_posix()}/checkpoints: nothing to evaluate")
    return found[-1]


# what is said at the end


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def what_was_learned(result: dict) -> str:
    certain = result["standard_error"] > 0  # not if every guess was the commonest code, or with one utterance (NaN)
    errors = result["difference"] / result["standard_error"] if certain else 0.0
    verdict = (
        f"So it has learned to use what stands around the gap: the difference is {errors:.0f} times its standard error."
        if errors > 3
        else f"The difference is only {errors:.1f} times its standard error: train for longer, or on more data."
    )
    return (
        f"The model hears noisy speech with gaps and guesses which of {result['num_classes']} sound codes is hidden.\n"
        f"  Loss at hidden steps: from {result['loss_untrained']:.2f} (untrained) to {result['loss']:.2f} nats; "
        f"knowing only how frequent each code is gives {result['entropy']:.2f}.\n"
        f"  Codes guessed right: {result['accuracy']:.1%}; always guessing the commonest code: "
        f"{result['commonest_code_accuracy']:.1%}.\n"
        f"  Difference: {100 * result['difference']:.1f} points, standard error {100 * result['standard_error']:.1f}, "
        f"over {result['scored_steps']} hidden steps of {result['utterances']} utterances.\n{verdict}"
    )


def where_it_is(run_folder: str, checkpoint: Path, picture: str) -> str:
    return (
        f"\nCheckpoint: {checkpoint.as_posix()}\n"
        f"Logs:       {run_folder}  (tensorboard --logdir {RUNS})\n"
        f"Picture:    {picture}"
    )


def what_next(python: Path) -> str:
    shown = python.relative_to(ROOT) if python.is_relative_to(ROOT) else python
    return (
        "\nNext, your own speech: write train.json with one line per file, such as\n"
        '  {"audio_filepath": "wavs/a.wav", "duration": 3.2}\n'
        "and noise.json alike, then\n"
        f"  {shown} train.py model_size=small model.train_ds.manifest_filepath=train.json "
        "model.train_ds.noise_manifest=noise.json"
    )


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a Windows console lacks many characters
    sys.exit(main())
