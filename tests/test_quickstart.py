import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import quickstart
from quickstart import (
    BIG_DOWNLOAD,
    Problem,
    check_python,
    constraints_with,
    counted,
    main,
    newest_checkpoint,
    parse_arguments,
    pinned_torch,
    release,
    run_and_echo,
    set_up,
    venv_python,
    what_was_learned,
)

ROOT = Path(__file__).resolve().parents[1]
RESULT = {
    "loss": 2.5,
    "loss_untrained": 4.4,
    "accuracy": 0.31,
    "commonest_code_accuracy": 0.15,
    "difference": 0.16,
    "standard_error": 0.01,
    "entropy": 3.4,
    "num_classes": 64,
    "scored_steps": 2000,
    "utterances": 40,
}


class FakeCommands:
    """Stands for `subprocess.run`: notes every command, and answers as `reply(command)` says."""

    def __init__(self, reply=lambda command: (0, "")):
        self.seen: list[list[str]] = []
        self.reply = reply

    def __call__(self, command, **options):
        self.seen.append([str(part) for part in command])
        code, text = self.reply(self.seen[-1])
        return subprocess.CompletedProcess(command, code, text if options.get("text") else text.encode(), "")


@pytest.fixture
def quiet_set_up(monkeypatch):
    monkeypatch.setattr(quickstart, "set_up", lambda venv: Path("python-of-venv"))


@pytest.fixture(autouse=True)
def stay_here(monkeypatch):
    monkeypatch.chdir(ROOT)  # main() changes the directory; this puts it back


@pytest.mark.parametrize("version", [(3, 8), (3, 9), (3, 14)])
def test_a_python_that_does_not_fit_is_told_which_ones_do(version):
    with pytest.raises(Problem, match=r"this is Python 3\.\d+; start quickstart\.py with Python 3\.10 to 3\.13"):
        check_python(version)


@pytest.mark.parametrize("version", [(3, 10), (3, 13)])
def test_the_oldest_and_the_newest_python_fit(version):
    check_python(version)


def test_an_old_python_can_read_the_file_and_it_imports_the_standard_library_only():
    source = (ROOT / "quickstart.py").read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 8))
    assert source.isascii()  # whatever a console's code page
    imported = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in ast.walk(tree)
                if isinstance(node, (ast.Import, ast.ImportFrom))]  # fmt: skip
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


def test_what_follows_the_command_is_passed_on():
    args, extra = parse_arguments(["train", "model_size=small", "trainer.max_steps=5", "--venv", "env"])
    assert (args.command, extra) == ("train", ["model_size=small", "trainer.max_steps=5"])
    assert args.venv == Path("env").absolute()
    args, extra = parse_arguments(["test", "--all", "tests/data", "-x"])
    assert args.all
    assert extra == ["tests/data", "-x"]


def test_setup_takes_nothing_more(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["setup", "now"])
    assert "setup takes no further arguments: now" in capsys.readouterr().err


def test_train_makes_data_trains_evaluates_and_says_what_was_learned(monkeypatch, quiet_set_up, tmp_path, capsys):
    def reply(command):
        if "train.py" in command:
            (tmp_path / "checkpoints").mkdir()
            (tmp_path / "checkpoints" / "a-last.ckpt").touch()
        if "tools/evaluate_ssl.py" in command:
            Path(command[command.index("--json") + 1]).write_text(json.dumps(RESULT), encoding="utf-8")
        return 0, ""

    commands = FakeCommands(reply)
    monkeypatch.setattr(subprocess, "run", commands)
    folder = tmp_path.as_posix()
    assert main(["train", "trainer.max_steps=5", f"exp_manager.explicit_log_dir={folder}"]) == 0
    data, train, evaluate = commands.seen
    assert data[1] == "tools/prepare_dummy_ssl_data.py"
    assert train[1:4] == ["train.py", "--config-name=quickstart", quickstart.TIME_LIMIT]
    assert train[4:] == ["trainer.max_steps=5", f"exp_manager.explicit_log_dir={folder}"]
    assert evaluate[1] == "tools/evaluate_ssl.py"
    said = capsys.readouterr().out
    assert "from 4.40 (untrained) to 2.50 nats" in said
    assert "Codes guessed right: 31.0%; always guessing the commonest code: 15.0%" in said
    assert "16 times its standard error" in said
    assert f"Checkpoint: {folder}/checkpoints/a-last.ckpt" in said
    assert f"Picture:    {folder}/guesses.png" in said
    assert "model.train_ds.manifest_filepath=train.json" in said


def test_each_training_gets_a_folder_of_its_own_unless_one_is_given(monkeypatch, quiet_set_up):
    commands = FakeCommands(lambda command: (3 if "train.py" in command else 0, ""))
    monkeypatch.setattr(subprocess, "run", commands)
    main(["train"])
    assert commands.seen[1][4].startswith("exp_manager.explicit_log_dir=nemo_experiments/quickstart/2")


def test_a_small_difference_is_not_called_learned():
    assert "only 1.5 times its standard error" in what_was_learned({**RESULT, "difference": 0.015})


@pytest.mark.parametrize("standard_error", [0.0, float("nan")])
def test_a_model_that_only_guesses_the_commonest_code_is_not_called_learned(standard_error):
    same = {"accuracy": 0.15, "difference": 0.0, "standard_error": standard_error}
    assert "train for longer" in what_was_learned({**RESULT, **same})


@pytest.mark.parametrize("failing", ["tools/prepare_dummy_ssl_data.py", "train.py"])
def test_a_failing_step_ends_the_run_and_is_named(failing, monkeypatch, quiet_set_up, capsys):
    commands = FakeCommands(lambda command: (7, "why it failed") if failing in command else (0, ""))
    monkeypatch.setattr(subprocess, "run", commands)
    assert main(["train"]) == 1
    assert failing in commands.seen[-1]
    assert f"error: {failing} ended with exit code 7" in capsys.readouterr().err


def test_a_training_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(Problem, match="left no checkpoint"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "selected"), [(["test"], ["-m", "not slow and not gpu and not nemo"]), (["test", "--all"], [])]
)
@pytest.mark.parametrize("code", [0, 1])
def test_test_runs_pytest_and_says_how_many_were_left_out(
    arguments, selected, code, monkeypatch, quiet_set_up, capsys
):
    def fake_pytest(command):
        assert command == ["python-of-venv", "-m", "pytest", *selected]
        return code, "58 passed, 2 skipped, 3 deselected in 1.98s"

    monkeypatch.setattr(quickstart, "run_and_echo", fake_pytest)
    assert main(arguments) == code
    said = capsys.readouterr().out
    assert ("Left out: 3 tests" in said) == bool(selected)
    assert "Skipped: 2 tests" in said


def test_output_is_echoed_and_its_last_line_and_exit_code_are_kept(capsys):
    text = r"gr\xfc\xdfe\n1 passed, 4 deselected in 1s\n\n"
    program = f"import sys; sys.stdout.buffer.write('{text}'.encode()); sys.exit(5)"
    assert run_and_echo([sys.executable, "-c", program]) == (5, "1 passed, 4 deselected in 1s")
    assert "gr\xfc\xdfe\n1 passed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "expected"),
    [("58 passed, 3 deselected in 1.98s", 3), ("12 deselected, 1 warning in 0.1s", 12), ("58 passed in 1.98s", 0)],
)
def test_the_number_of_deselected_tests_is_read_from_the_closing_line(line, expected):
    assert counted("deselected", line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  Downloading scipy-1.15.3-cp310-cp310-manylinux_2_17_x86_64.whl (37.7 MB)\n", "37.7 MB"),
        ("Downloading torch-2.13.0-cp312-cp312-win_amd64.whl.metadata (29 kB)\n", None),
    ],
)
def test_only_big_downloads_are_told(line, expected):
    found = BIG_DOWNLOAD.match(line)
    assert (found and found[2]) == expected


# installing


@pytest.fixture
def installs(monkeypatch) -> list[tuple[str, ...]]:
    """What pip would have been asked for; nothing is installed and no environment made."""
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(quickstart, "pip_install", lambda python, *what: asked.append(what))

    def make(venv: Path) -> None:
        venv_python(venv).parent.mkdir(parents=True)
        venv_python(venv).touch()

    monkeypatch.setattr(quickstart, "make_venv", make)
    monkeypatch.setattr(quickstart, "installed_torch", lambda python: None)
    return asked


def test_torch_is_installed_first_and_alone_at_its_exact_version(installs, tmp_path):
    set_up(tmp_path / "env")
    first, second = installs
    assert first == (pinned_torch(),)
    assert first[0].startswith("torch==")
    assert second[:2] == ("-r", "requirements-dev.txt")
    assert second[2:] == ("-c", str(tmp_path / "env" / "quickstart-constraints.txt"))


def test_what_is_installed_already_is_not_installed_again_until_the_requirements_change(
    installs, tmp_path, monkeypatch
):
    set_up(tmp_path / "env")
    set_up(tmp_path / "env")
    assert len(installs) == 2
    monkeypatch.setattr(quickstart, "fingerprint", lambda: "other requirements")
    set_up(tmp_path / "env")
    assert len(installs) == 4


def test_a_torch_that_is_there_stays(installs, tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "installed_torch", lambda python: "2.6.0+cu124")
    set_up(tmp_path / "env")
    assert len(installs) == 1  # no call for torch
    lines = (tmp_path / "env" / "quickstart-constraints.txt").read_text(encoding="utf-8").splitlines()
    of_torch = [line for line in lines if line.startswith(("torch==", "torch<", "torchaudio"))]
    assert of_torch == ["torch==2.6.0+cu124", "torchaudio<2.7"]


def test_an_installation_that_failed_is_done_again(installs, tmp_path, monkeypatch):
    def fail(python, *what):
        raise Problem("no network")

    with monkeypatch.context() as broken:
        broken.setattr(quickstart, "pip_install", fail)
        with pytest.raises(Problem):
            set_up(tmp_path / "env")
    set_up(tmp_path / "env")
    assert len(installs) == 2


def test_a_failing_pip_shows_the_end_of_what_it_said_and_big_downloads_as_they_come(monkeypatch, capsys):
    said = "  Downloading scipy-1.whl (37.7 MB)\\nERROR: No matching distribution"
    program = f"import sys; print('{said}'); sys.exit(1)"
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **o: popen([sys.executable, "-c", program], **o))
    with pytest.raises(Problem, match=r"(?s)installing failed.*ended with:.*No matching distribution"):
        quickstart.pip_install(Path(sys.executable), "something")
    assert capsys.readouterr().out == "  scipy-1.whl (37.7 MB)\n"


def test_an_environment_that_cannot_be_made_is_explained(monkeypatch, tmp_path):
    monkeypatch.setattr(subprocess, "run", FakeCommands(lambda command: (1, "ensurepip is not available")))
    with pytest.raises(Problem, match=r"(?s)apt install python3-venv.*ensurepip is not available"):
        quickstart.make_venv(tmp_path / "env")


@pytest.mark.parametrize(("recent", "flag"), [("2.6.0", True), ("2.1.0", False), (None, False)])
def test_an_environment_sees_the_torch_of_its_python_if_that_is_recent(recent, flag, monkeypatch, tmp_path):
    commands = FakeCommands()
    monkeypatch.setattr(subprocess, "run", commands)
    monkeypatch.setattr(quickstart, "torch_of_this_python", lambda: recent)
    quickstart.make_venv(tmp_path / "env")
    assert ("--system-site-packages" in commands.seen[0]) == flag


@pytest.mark.parametrize(
    ("version", "expected"), [("2.13.0+cpu", (2, 13)), ("2.4.1", (2, 4)), ("2.9.0a0+git1", (2, 9))]
)
def test_a_release_is_read_from_any_version_of_torch(version, expected):
    assert release(version) == expected


def test_without_a_torch_to_keep_the_constraints_are_the_file():
    assert constraints_with(None) == (ROOT / "constraints.txt").read_text(encoding="utf-8")


def test_every_requirement_is_pinned_within_its_range():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pinned = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            pinned[canonicalize_name(name)] = version
    for name in ("requirements.txt", "requirements-convert.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            if line and not line.startswith(("#", "-r")):
                requirement = Requirement(line)
                assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), line


def test_requirements_name_no_host():
    for name in ("requirements.txt", "requirements-convert.txt", "requirements-dev.txt", "constraints.txt"):
        assert "://" not in (ROOT / name).read_text(encoding="utf-8")
