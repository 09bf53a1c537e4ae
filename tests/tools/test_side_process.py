import os
import signal
import sys
from pathlib import Path

import pytest

from tools.side_process import SideFailed, SideProcess, environment_for, executable

MODULE = """
import sys, time
from tools.side_process import serve

def fail():
    raise ValueError("no such layer")

def chat():
    print("loading ...", end="")
    sys.stdout.flush()
    sys.stdout.buffer.write(b"\\xff\\xfe ...")
    return {"done": True}

def stop():
    print("last words", file=sys.stderr)
    sys.exit(7)

print("a library says hello")
def add(a, b):
    return {"sum": a + b}

def arguments():
    return {"given": sys.argv[1:]}

def sleep():
    time.sleep(100_000)

serve({task.__name__: task for task in (add, arguments, fail, stop, chat, sleep)})
"""


@pytest.fixture
def start(tmp_path):
    """`start("ours")`: the module above, or `start(module="other")`."""
    (tmp_path / "answering.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "dying.py").write_text("import a_package_that_nobody_has\n", encoding="utf-8")

    def begin(*arguments: str, module: str = "answering") -> SideProcess:
        return SideProcess(sys.executable, module, *arguments, environment={"PYTHONPATH": str(tmp_path)})

    return begin


def test_a_process_answers_one_task_after_the_other(start):
    with start("ours", "fast") as process:
        assert [process("add", a=1, b=b) for b in (2, 3)] == [{"sum": 3}, {"sum": 4}]
        assert process("add", a="Grüße, ", b="世界\n") == {"sum": "Grüße, 世界\n"}
        assert process("arguments") == {"given": ["ours", "fast"]}


def test_it_ends_with_its_context(start):
    with start() as process:
        process("add", a=1, b=2)
    assert process.process.returncode == 0


def test_a_task_that_fails_tells_why_and_the_next_one_is_done(start):
    with start() as process:
        with pytest.raises(RuntimeError, match=r"failed at fail:[\s\S]*ValueError: no such layer"):
            process("fail")
        with pytest.raises(RuntimeError, match=r"failed at unknown:[\s\S]*KeyError"):
            process("unknown")
        assert process("add", a=1, b=2) == {"sum": 3}


def test_a_process_that_dies_at_a_task_tells_its_last_words(start):
    with start() as process:
        with pytest.raises(RuntimeError, match=r"stopped with 7:\s+last words"):
            process("stop")
        with pytest.raises(RuntimeError, match="stopped with 7"):
            process("add", a=1, b=2)


def test_a_process_that_never_served_tells_why(start):
    with start(module="dying") as process, pytest.raises(RuntimeError, match="a_package_that_nobody_has"):
        process.process.wait()
        process("add", a=1, b=2)


def test_a_python_that_is_not_there_is_refused_by_its_path(tmp_path):
    with pytest.raises(ValueError, match=r"no_python.*give the path of a Python"):
        SideProcess(str(tmp_path / "no_python"), "answering")


def test_a_line_that_a_library_leaves_open_hides_no_answer(start):
    with start() as process:
        assert process("chat") == {"done": True}


def test_after_ctrl_c_nobody_waits_for_the_task_underway(start):
    with pytest.raises(KeyboardInterrupt), start() as process:
        process.process.stdin.write('{"task": "sleep"}\n')
        process.process.stdin.flush()
        raise KeyboardInterrupt
    assert process.process.returncode != 0


def test_a_relative_path_is_that_of_who_gives_it(start, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path / "bin")
    assert executable(f".{os.sep}python") == str(tmp_path / "bin" / "python")
    assert executable("python3") == "python3"
    assert executable(os.path.join("~", "python")) == str(Path.home() / "python")


def test_a_setting_that_hides_the_project_does_not_reach_any(start, monkeypatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    with start() as process:
        assert process("add", a=1, b=2) == {"sum": 3}


@pytest.mark.skipif(os.name == "nt", reason="a link to a Python")
def test_where_this_python_looks_for_modules_is_handed_to_this_one_only(tmp_path, monkeypatch):
    (tmp_path / "answering.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with SideProcess(sys.executable, "answering") as process:
        assert process("add", a=1, b=2) == {"sum": 3}
    with SideProcess(str(tmp_path / "python"), "answering") as process, pytest.raises(SideFailed, match="No module"):
        process("add", a=1, b=2)
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    assert not {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"} & set(environment_for(str(tmp_path / "python")))


def test_what_became_of_a_process_fits_into_one_line(start):
    became = {"fail": "failed at fail: ValueError: no such layer", "stop": "stopped with 7: last words"}
    with start() as process:
        for task, words in became.items():
            with pytest.raises(SideFailed) as error:
                process(task)
            assert error.value.in_one_line.endswith(words) and "\n" not in error.value.in_one_line
        assert process.ended


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no signals")
def test_a_process_that_was_killed_says_so(start):
    with start() as process:
        process.process.kill()
        with pytest.raises(SideFailed, match="was killed by signal 9, as where memory runs out"):
            process("add", a=1, b=2)
