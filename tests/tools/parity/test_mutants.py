"""Our source, copied and broken in one line: the tool, run as a user runs it, fails and names the module."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.parity.kept_records import SUMS

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("config", "core", "data", "losses", "models", "modules", "parts", "tools", "utils")
CASE = "model_pre_conv_2_books"  # with the fewest things beside the computation


@dataclass(frozen=True)
class Mutant:
    """A line of a file, what it becomes, and the module that is to be named."""

    file: str
    old: str
    new: str
    module: str


MUTANTS = {
    "time scrambled": Mutant(
        "parts/submodules/subsampling.py",
        "x.transpose(1, 2).flatten(2)",
        "x.reshape(x.shape[0], x.shape[2], -1)",
        "encoder.pre_encode",
    ),
    "block order": Mutant(
        "parts/submodules/conformer_block.py",
        "        x = x + self.dropout(self.self_attn(self.norm_self_att(x), positions, attention_mask))\n"
        "        x = x + self.dropout(self.conv(self.norm_conv(x), padding))\n",
        "        x = x + self.dropout(self.conv(self.norm_conv(x), padding))\n"
        "        x = x + self.dropout(self.self_attn(self.norm_self_att(x), positions, attention_mask))\n",
        "encoder.layers.0",
    ),
    "attention to padding": Mutant(
        "parts/submodules/attention.py",
        "scores.masked_fill(hidden, HIDDEN_SCORE).softmax(dim=3).masked_fill(hidden, 0.0)",
        "scores.softmax(dim=3)",
        "encoder.layers.0.self_attn",
    ),
    "convolution over padding": Mutant(
        "parts/submodules/convolution.py",
        "        x = x.masked_fill(padding.unsqueeze(1), 0.0)\n",
        "",
        "encoder.layers.0.conv",
    ),
    "extra dropout": Mutant(
        "parts/submodules/conformer_block.py",
        "return self.linear2(self.dropout(self.activation(self.linear1(x))))",
        "return nn.functional.dropout(self.linear2(self.activation(self.linear1(x))), 0.1, self.training)",
        "encoder.layers.0.feed_forward1",
    ),
    "un-normalised codes": Mutant(
        "modules/ssl_modules/quantizers.py",
        "x = F.normalize(x, dim=-1).transpose(0, 1)",
        "x = x.transpose(0, 1)",
        "quantizer",
    ),
    "transposed codebook": Mutant(
        "modules/ssl_modules/quantizers.py",
        "x, codebooks.transpose(1, 2), beta",
        "x, codebooks.reshape(num_books, code_dim, num_classes), beta",
        "quantizer",
    ),
    "window": Mutant(
        "parts/preprocessing/features.py",
        "window=self.window.float()",
        "window=torch.hamming_window(self.win_length, periodic=False)",
        "preprocessor.featurizer",
    ),
    "shifted positions": Mutant(
        "parts/submodules/positions.py",
        "torch.arange(steps - 1, -steps, -1",
        "torch.arange(steps, -steps + 1, -1",
        "encoder.pos_enc",
    ),
    "loss over all steps": Mutant(
        "losses/ssl_losses/mlm.py", "self.is_scored(masks)", "self.is_scored(masks + 1)", "loss"
    ),
    "noise in the target": Mutant(
        "models/ssl_models.py",
        "self.quantizer(input_signal=features.clean)",
        "self.quantizer(input_signal=features.noisy)",
        "(model)",
    ),
    "scheduler off by one": Mutant(
        "core/optim/phases.py",
        "self.rate(base_lr, self.last_epoch)",
        "self.rate(base_lr, self.last_epoch + 1)",
        "optim.sched",
    ),
}
QUICK = ("time scrambled", "un-normalised codes", "attention to padding", "scheduler off by one")


@pytest.fixture
def copied(tmp_path) -> Path:
    """The project's sources and its record of one case, to be broken."""
    for name in SOURCES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.glob("*.py"):
        shutil.copy(file, tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    kept, records = ROOT / "tests" / "parity" / "records", tmp_path / "records"
    records.mkdir()
    shutil.copy(kept / f"{CASE}.safetensors", records)
    sums = (kept / SUMS).read_text(encoding="utf-8").splitlines()
    own = [line for line in sums if line.endswith(f" {CASE}.safetensors")]
    (records / SUMS).write_text("\n".join(own) + "\n", encoding="utf-8")
    return tmp_path


def run_tool(folder: Path) -> tuple[int, dict, str]:
    """Exit code, JSON and what was printed."""
    report = folder / "report.json"
    done = subprocess.run(
        [sys.executable, "tools/compare_with_nemo.py", "--records", "records", "--only", CASE,
         "--json", str(report)],
        cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False,
        env={**os.environ, "PYTHONPATH": "", "PYTHONIOENCODING": "utf-8", "COLUMNS": "300"},
    )  # fmt: skip
    assert report.is_file(), done.stderr[-2000:]
    return done.returncode, json.loads(report.read_text(encoding="utf-8")), done.stdout


def break_in(folder: Path, mutant: Mutant) -> None:
    file = folder / mutant.file
    source = file.read_text(encoding="utf-8")
    assert mutant.old in source, f"{mutant.file} no longer has this line: choose another for the mutant"
    file.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")


def test_the_copy_passes_unbroken(copied):
    code, report, printed = run_tool(copied)
    assert code == 0, printed
    (comparison,) = report["cases"]
    assert (comparison["name"], comparison["culprit"]) == (CASE, None)
    passed = {row["level"] for row in comparison["rows"] if row["status"] == "passed"}
    assert passed >= {"feature", "token", "layer", "loss", "gradient", "learning_rate", "parameter"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MUTANTS]
)
def test_a_broken_line_fails_the_tool_which_names_its_module(name, copied):
    mutant = MUTANTS[name]
    break_in(copied, mutant)
    code, report, printed = run_tool(copied)
    assert code == 1, printed
    (comparison,) = report["cases"]
    assert comparison["culprit"]["module"] == mutant.module
    assert mutant.module in printed
