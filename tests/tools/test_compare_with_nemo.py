"""The tool as it is run, against the records kept in the project."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from parts.preprocessing.features import FilterbankFeatures
from tools.compare_with_nemo import main
from tools.parity.report import markdown

ROOT = Path(__file__).resolve().parents[2]
CASE = "encoder_default"  # a quick one


@pytest.fixture(autouse=True)
def no_nemo_here(monkeypatch):
    monkeypatch.setattr("tools.compare_with_nemo.importlib.util.find_spec", lambda name: None)


def test_without_nemo_all_records_are_compared_and_the_readmes_tables_are_what_comes_out(tmp_path, capsys):
    readmes = {path.name: path for path in (ROOT / "README.md", ROOT / "README.zh-CN.md")}
    for name, path in readmes.items():
        (tmp_path / name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    copies = [str(tmp_path / name) for name in readmes]
    assert main(["--json", str(tmp_path / "all.json"), "--markdown", *copies]) == 0
    assert "PASSED" in capsys.readouterr().out
    report = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert len(report["cases"]) == 19
    for name, path in readmes.items():
        assert (tmp_path / name).read_text(encoding="utf-8") == path.read_text(encoding="utf-8")


def test_a_difference_ends_with_1_and_names_its_module(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(FilterbankFeatures, "_waveform", lambda self, x, lengths: x)
    out = tmp_path / "r" / "all.json"
    assert main(["--only", "pre_conv_squeezed", "--json", str(out), "--html", str(tmp_path / "all.html")]) == 1
    assert "preprocessor.featurizer" in capsys.readouterr().out
    (case,) = json.loads(out.read_text(encoding="utf-8"))["cases"]
    assert case["culprit"]["module"] == "preprocessor.featurizer"
    assert "preprocessor.featurizer" in (tmp_path / "all.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nothing"], "--only=nothing"),
        (["--config", "x.yaml"], "--nemo-python"),
        (["model.num_books=2"], "--nemo-python"),
        (["--record"], "--nemo-python"),
        (["--records", "nowhere"], "nowhere"),
        (["--nemo-python", "nowhere/python"], "nowhere/python"),
        (["--only", CASE, "--markdown", "README.none"], "README.none"),
        (["--only", CASE, "--steps", "3"], "--only"),
        (["--records", "x", "--nemo-python", "y"], "--records"),
        (["--records", "x", "--record"], "--records"),
        (["--records", "x", "--checkpoint", "y.nemo"], "--records"),
        (["--noise", "x.wav"], "--noise"),
        (["--noise-manifest", "x.json"], "--noise-manifest"),
        (["--repetitions", "3"], "--repetitions"),
    ],
)
def test_a_mistake_ends_with_2_and_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_it_runs_as_a_program_from_any_folder(tmp_path):
    tool = ROOT / "tools" / "compare_with_nemo.py"
    done = subprocess.run(
        [sys.executable, tool, "--only", CASE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "PASSED" in done.stdout) == (0, True), done.stderr


def test_the_readmes_have_a_place_for_the_table():
    for name in ("README.md", "README.zh-CN.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert text.count(markdown.START) == text.count(markdown.END) == 1
