import sys

import pytest

from tools.side_process import SideProcess

MODULE = """
import sys
from tools.side_process import serve

def fail():
    raise ValueError("no such layer")

def stop():
    print("last words", file=sys.stderr)
    sys.exit(7)

print("a library says hello")
serve({"add": lambda a, b: {"sum": a + b}, "arguments": lambda: {"given": sys.argv[1:]}, "fail": fail, "stop": stop})
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
