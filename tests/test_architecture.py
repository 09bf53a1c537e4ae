"""Imports point one way , from train.py down to utils: the picture of who may use whom, checked against the code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "train": {"models", "data", "core", "utils"},
    "models": {"modules", "losses", "data", "parts", "core", "utils"},
    "modules": {"parts", "core", "utils"},
    "losses": {"parts", "core", "utils"},
    "data": {"parts", "core", "utils"},
    "core": {"utils"},
    "parts": {"core.neural_types", "utils"},
    "utils": set(),
}
OURS = {*MAY_IMPORT, "tools", "tests", "quickstart"} - {"train"}
NOT_IN_PARTS = {"lightning", "hydra", "omegaconf"}


def python_files() -> Iterator[Path]:
    for room in MAY_IMPORT:
        yield from [ROOT / "train.py"] if room == "train" else sorted((ROOT / room).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or "."


def wrong_arrows(source: str, room: str) -> list[str]:
    """'line N: room imports X' for each import that room may not make; imports of our own inside functions too."""
    tree, wrong = ast.parse(source), []
    for line, module in imports(tree):
        head = module.split(".")[0]
        allowed = any(module == name or module.startswith(f"{name}.") for name in MAY_IMPORT[room])
        if head in OURS and head != room and not allowed:
            wrong.append(f"line {line}: {room} imports {module}")
        if head == "nemo" or (room == "parts" and head in NOT_IN_PARTS):
            wrong.append(f"line {line}: {room} imports {module}")
    for function in (n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))):
        for line, module in imports(function):
            if module.split(".")[0] in OURS:
                wrong.append(f"line {line}: {module} is imported inside {function.name}()")
    return wrong


def test_every_import_points_the_right_way():
    wrong = []
    for path in python_files():
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        wrong += [f"{path.relative_to(ROOT)}, {w}" for w in wrong_arrows(path.read_text(encoding="utf-8"), room)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("modules", "from data.ssl_dataset import AudioNoiseDataset"),
        ("parts", "from core.classes import NeuralModule"),
        ("parts", "import omegaconf"),
        ("utils", "import core"),
        ("models", "import nemo.collections.asr"),
        ("models", "def f():\n    from modules import conformer_encoder"),
    ],
)
def test_a_wrong_arrow_is_seen(room, source):
    assert wrong_arrows(source, room)


def test_nothing_imports_tools_or_tests():
    for path in python_files():
        heads = {module.split(".")[0] for _, module in imports(ast.parse(path.read_text(encoding="utf-8")))}
        assert not heads & {"tools", "tests"}, path
