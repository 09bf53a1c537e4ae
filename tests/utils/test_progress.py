import re
import sys
from math import inf

import pytest
from lightning.pytorch import Trainer

from tests.utils.tiny_run import TinyModel
from utils import progress
from utils.progress import SpeechProgress, clock


def fit(**options) -> None:
    Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[SpeechProgress()],
        **options,
    ).fit(TinyModel(batches=4))


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


def test_audio_seconds_are_those_of_the_batches(monkeypatch):
    clock_times = iter(range(1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock_times)))
    shown = []
    monkeypatch.setattr(SpeechProgress, "_show", lambda self, line: shown.append(line))
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    fit(max_steps=1, limit_val_batches=0)
    assert "1.0 s of audio/s" in shown[0]  # 2 items of 1 s in the 2 ticks from one reading of the clock to the next


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.2, "0:05"), (125, "2:05"), (3725, "1:02:05"), (-1, "0:00"), (inf, "?")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
