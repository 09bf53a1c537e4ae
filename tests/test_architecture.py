"""Imports point one way, from train.py down to utils: the picture of who may use whom, checked against the code."""

import ast
import graphlib
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
OURS = {*MAY_IMPORT, "tools", "tests", "quickstart"}
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
        ("models", "from train import main"),
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


def module_graph() -> dict[str, set[str]]:
    """Module of ours -> modules of ours that it imports; `from package import module` counts as package.module."""
    trees = {}
    for path in python_files():
        parts = path.relative_to(ROOT).with_suffix("").parts
        trees[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text(encoding="utf-8"))
    graph = {}
    for name, tree in trees.items():
        named = {f"{n.module}.{a.name}" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
        graph[name] = ({module for _, module in imports(tree)} | named) & trees.keys() - {name}
    return graph


def a_cycle(graph: dict[str, set[str]]) -> tuple[str, ...] | None:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return tuple(error.args[1])


def test_no_module_imports_itself_by_way_of_others():
    graph = module_graph()
    assert "models.ssl_models" in graph["train"] and a_cycle(graph) is None
    graph["utils.config_check"].add("train")
    assert a_cycle(graph)
