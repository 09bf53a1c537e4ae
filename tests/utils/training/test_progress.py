import re
import sys
from math import inf
from types import SimpleNamespace

import pytest
from lightning.pytorch import Trainer

from tests.utils.tiny_run import TinyModel
from utils.logging import logger, own_file
from utils.training import progress
from utils.training.progress import SpeechProgress, clock, waiting


def fit(model: TinyModel | None = None, **options) -> None:
    Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[SpeechProgress()],
        **options,
    ).fit(model or TinyModel(batches=4))


def test_plain_lines_say_loss_accuracy_speed_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    fit(max_steps=3, limit_val_batches=0)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step")]
    pattern = r"step +\d/3  loss \d+\.\d{3}  accuracy 0\.250  \d+\.\d s of audio/s  \d+:\d\d left"
    assert len(lines) == 3 and all(re.fullmatch(pattern, line) for line in lines), lines


def test_a_short_run_shows_its_end_and_each_validation(capsys):
    fit(max_epochs=1, val_check_interval=2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step")]
    assert [line.split()[1] for line in lines] == ["2/4", "2", "4/4", "4"]
    assert re.search(r"val_loss \d\.\d{3}  val_accuracy 0\.500", lines[1])


def test_on_a_terminal_one_line_is_rewritten(capsys, monkeypatch):
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fit(max_steps=3, limit_val_batches=0)
    printed = capsys.readouterr().err
    assert printed.count("\rstep") == 3
    assert printed.encode("cp1252").decode("ascii")


class Talking(TinyModel):
    """Says something in each step, and fails in the last."""

    def training_step(self, batch, batch_idx):
        logger.warning(f"message {batch_idx}")
        if batch_idx == 2:
            raise RuntimeError
        return super().training_step(batch, batch_idx)


def test_a_message_begins_on_a_line_of_its_own(capsys, monkeypatch):
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with pytest.raises(RuntimeError):
        fit(Talking(batches=4), limit_val_batches=0)
    lines = capsys.readouterr().err.split("\n")
    assert [line for line in lines if "message" in line] == [f"WARNING: message {i}" for i in range(3)]
    filters = list(logger.filters)
    fit(TinyModel(validate=False), max_epochs=1)
    assert logger.filters == filters and not any(hasattr(one, "__self__") for one in filters)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_stands_on_the_console_stands_in_the_log_file(tmp_path, monkeypatch, is_terminal):
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    own_file.open(tmp_path / "of what was said before.txt")
    own_file.open(tmp_path / "log.txt")
    fit(max_epochs=1, val_check_interval=2)
    own_file.close()
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    steps = [line.partition("INFO: ")[2].split()[1] for line in lines if "INFO: step" in line]
    assert steps == ["2/4", "2", "4/4", "4"]


def test_audio_seconds_are_those_of_the_batches(monkeypatch):
    clock_times = iter(range(1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock_times)))
    shown = []
    monkeypatch.setattr(SpeechProgress, "_show", lambda self, line: shown.append(line))
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    fit(max_steps=1, limit_val_batches=0)
    assert "1.0 s of audio/s" in shown[0]  # 2 items of 1 s in the 2 ticks from one reading of the clock to the next


class Waiting(TinyModel):
    """Each batch was waited for 0.5 s."""

    def training_step(self, batch, batch_idx):
        batch.seconds = {"wait": 0.5, "decode": 10.0}
        return super().training_step(batch, batch_idx)


def test_waiting_for_data_is_a_share_of_the_time_since_the_last_line(monkeypatch):
    now = iter(range(0, 1000, 2))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(progress, "LINE_SECONDS", 3.0)  # two batches, of 2 s, and 2 s more until the line is made
    shown = []
    monkeypatch.setattr(SpeechProgress, "_show", lambda self, line: shown.append(line))
    fit(Waiting(batches=4), max_steps=4, limit_val_batches=0)
    assert [line.rpartition("  ")[2] for line in shown] == ["waiting for data 17 %"] * 2


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, ""), (0.124, "  waiting for data 12 %"), (1.7, "  waiting for data 100 %")]
)
def test_waiting(share, text):
    assert waiting(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.2, "0:05"), (125, "2:05"), (3725, "1:02:05"), (-1, "0:00"), (inf, "?")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
