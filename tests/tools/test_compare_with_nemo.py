"""The tool as it is run, against the records kept in the project."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from parts.preprocessing.features import FilterbankFeatures
from tools.compare_with_nemo import main
from tools.parity.cases import CASES
from tools.parity.records import Job, Record, kept
from tools.parity.report import markdown
from tools.side_process import SideFailed

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
    assert [case["name"] for case in report["cases"]] == sorted(CASES)
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
        (["--config", "nope.yaml"], "nope.yaml"),
        (["--config", "config/nest_fast-conformer.yaml", "model.encoder.n_layers=1"], "--nemo-python"),
        (["--steps", "5"], "--nemo-python"),  # the default, but asked for
        (["--steps", "0"], "--steps 0"),
        (["--until", "parameter"], "--nemo-python"),
        (["--until", "feature", "--steps", "20"], "--steps=20 has no effect"),
        (["model.num_books=2"], "--nemo-python"),
        (["--record"], "--nemo-python"),
        (["--records", "nowhere"], "nowhere"),
        (["--nemo-python", "nowhere/python"], "nowhere/python"),
        (["--nemo-python", ""], "--nemo-python is empty"),
        (["--markdown", "README.none"], "--markdown README.none"),
        (["--markdown", "pyproject.toml"], "no place for the parity table"),
        (["--only", CASE, "--markdown", "README.md"], "--markdown"),
        (["--records", "x", "--markdown", "README.md"], "--markdown"),
        (["--steps", "3", "--markdown", "README.md"], "--markdown"),
        (["--record", "model.num_books=2"], "put overrides before"),
        (["--audio", "a.wav", "model.num_books=2"], "put overrides before"),
        (["--markdown", "README.md", "model.num_books=2"], "put overrides before"),
        (["--json", "tools"], "--json tools"),
        (["--html", "pyproject.toml/x.html"], "--html pyproject.toml"),
        (["--json", "x", "--html", "x"], "--json and --html"),
        (["--only", CASE, "--steps", "3"], "--only"),
        (["--records", "x", "--nemo-python", "y"], "--records"),
        (["--records", "x", "--record"], "--records"),
        (["--records", "x", "--checkpoint", "y.nemo"], "--records"),
        (["--noise", "x.wav"], "--noise"),
        (["--noise-manifest", "x.json"], "--noise-manifest"),
        (["--repetitions", "3"], "--repetitions"),
        (["--speed", "--repetitions", "0"], "--repetitions=0"),
    ],
)
def test_a_mistake_ends_with_2_and_one_line_before_anything_is_computed(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("tools.compare_with_nemo.compare_with", None)
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


class FakeNemo:
    """NeMo whose process answers with the kept records, and fails at some cases."""

    fails_at = ("encoder_default",)
    nemo_version, description, python = "3.0.0", "NeMo 3.0.0, run now", "python"
    origin = {"side": "nemo", "nemo_version": "3.0.0"}  # noqa: RUF012 (never changed)

    def __init__(self, python: str, folder: Path):
        pass

    def record(self, job: Job) -> Record:
        if job.name in self.fails_at:
            raise SideFailed("`python -m tools.parity.nemo_side` was killed by signal 9:\nloading ...\nthe last words")
        return kept(job.name)

    def __enter__(self) -> "FakeNemo":
        return self

    def __exit__(self, *exception) -> None:
        pass


@pytest.fixture
def fake_nemo(monkeypatch) -> type[FakeNemo]:
    monkeypatch.setattr("tools.compare_with_nemo.LiveNemo", FakeNemo)
    monkeypatch.setattr("tools.compare_with_nemo.CASES", ["encoder_causal_striding", CASE, "encoder_dw_striding2"])
    monkeypatch.setattr("tools.compare_with_nemo.LIVE_CASES", {})
    return FakeNemo


def test_a_case_at_which_nemos_process_fails_is_one_of_its_own_and_all_else_is_compared_and_written(
    fake_nemo, tmp_path, capsys
):
    files = {name: tmp_path / f"all.{name}" for name in ("json", "html")}
    assert main(["--nemo-python", "x", "--json", str(files["json"]), "--html", str(files["html"])]) == 3
    cases = {case["name"]: case for case in json.loads(files["json"].read_text(encoding="utf-8"))["cases"]}
    assert {name: case["status"] for name, case in cases.items()} == {
        "encoder_causal_striding": "passed", CASE: "failed", "encoder_dw_striding2": "passed",
    }  # fmt: skip
    (row,) = cases[CASE]["rows"]
    assert row["status"] == "broken off"
    assert row["detail"] == "`python -m tools.parity.nemo_side` was killed by signal 9: the last words"
    assert "the last words" in files["html"].read_text(encoding="utf-8")
    assert "the last words" in capsys.readouterr().out


def test_where_nemos_process_fails_a_difference_still_ends_with_1(fake_nemo, monkeypatch):
    monkeypatch.setattr(FakeNemo, "fails_at", ("encoder_dw_striding2",))
    monkeypatch.setattr("parts.submodules.conformer_block.ConformerBlock.forward", lambda self, x, *rest, **more: x)
    assert main(["--nemo-python", "x"]) == 1


def test_the_table_is_left_alone_unless_all_passed(fake_nemo, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(f"{markdown.START}\nas it was\n{markdown.END}\n", encoding="utf-8")
    assert main(["--nemo-python", "x", "--markdown", str(readme)]) == 3
    assert "as it was" in readme.read_text(encoding="utf-8")
    assert f"not written, as not all passed: {readme}" in " ".join(capsys.readouterr().err.split())


def test_what_is_there_already_stays_until_there_is_something_to_write(fake_nemo, monkeypatch, tmp_path):
    (tmp_path / "old.json").write_text("old", encoding="utf-8")
    monkeypatch.setattr(FakeNemo, "record", interrupt)
    with pytest.raises(SystemExit):
        main(["--nemo-python", "x", "--json", str(tmp_path / "old.json"), "--html", str(tmp_path / "new.html")])
    assert (tmp_path / "old.json").read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]


def interrupt(nemo: FakeNemo, job: Job) -> Record:
    raise KeyboardInterrupt


def test_a_model_of_ones_own_is_built_once_for_speed_too(fake_nemo, monkeypatch):
    built, measured = [], []
    job = kept("encoder_causal_striding").job

    def measure(job: Job, *args: object, **options: object) -> list:
        measured.append(job)
        return []

    monkeypatch.setattr("tools.compare_with_nemo.own_job", lambda *args, **options: built.append(args) or job)
    monkeypatch.setattr("tools.compare_with_nemo.measure_speed", measure)
    assert main(["--nemo-python", "x", "--speed", "model.num_books=2"]) == 0
    assert len(built) == 1 and measured == [job]


def test_files_are_written_though_nobody_reads_the_text(tmp_path):
    command = [sys.executable, "tools/compare_with_nemo.py", "--verbose", "--only", CASE, "--json", str(tmp_path / "x")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert process.returncode == 0 and "Traceback" not in errors and "BrokenPipe" not in errors
    assert json.loads((tmp_path / "x").read_text(encoding="utf-8"))["passed"]
