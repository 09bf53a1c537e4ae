"""What each process writes into its log file; runs of two ranks are started as users start them."""

import errno
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.multiprocessing.spawn import ProcessRaisedException

from tests.utils.tiny_run import TinyModel
from utils.experiment.log_file import LogFile, log_path
from utils.logging import logger, own_file

ROOT = Path(__file__).resolve().parents[3]
RANK_1 = "log_globalrank-1_localrank-1.txt"


@pytest.fixture(autouse=True)
def nothing_waits():
    own_file.close()
    own_file._waiting.clear()
    yield
    own_file.close()


def text(folder: Path, name: str = "log.txt") -> str:
    return (folder / name).read_text(encoding="utf-8")


class Talker(TinyModel):
    """Says something on each rank; fails, if told so, on rank 1."""

    def __init__(self, fails: bool = False):
        super().__init__()
        self.fails = fails

    def on_train_start(self) -> None:
        logger.info("rank %d is under way", self.global_rank)
        warnings.warn(f"rank {self.global_rank} has a warning", stacklevel=1)

    def on_train_batch_end(self, *_) -> None:
        if self.fails and self.global_rank == self.trainer.world_size - 1:
            raise RuntimeError(f"rank {self.global_rank} breaks down")


def fit(folder: Path, model: TinyModel) -> None:
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_steps": 2}
    Trainer(accelerator="cpu", devices=1, callbacks=[LogFile(folder)], **options).fit(model)


def test_messages_and_warnings_are_in_the_file(tmp_path):
    logger.info("before the folder was known")
    fit(tmp_path, Talker())
    logger.info("after the run")
    assert "INFO: before the folder was known" in text(tmp_path)
    assert "INFO: rank 0 is under way" in text(tmp_path)
    assert re.search(r"WARNING: UserWarning: rank 0 has a warning \(.*test_log_file\.py:\d+\)", text(tmp_path))
    assert "GPU available" in text(tmp_path)  # Lightning's
    assert "after the run" not in text(tmp_path)


def test_a_warning_still_reaches_who_else_wants_it(tmp_path):
    with pytest.warns(UserWarning, match="rank 0 has a warning"):
        fit(tmp_path, Talker())
    assert warnings.showwarning != own_file._take_warning


def test_an_uncaught_error_leaves_its_traceback(tmp_path):
    with pytest.raises(RuntimeError):
        fit(tmp_path, Talker(fails=True))
    assert "Traceback (most recent call last)" in text(tmp_path)
    assert "on_train_batch_end" in text(tmp_path) and "RuntimeError: rank 0 breaks down" in text(tmp_path)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SIGTERMException()])
def test_being_stopped_is_no_error(tmp_path, stop):
    LogFile(tmp_path).on_exception(None, None, stop)
    assert "error" not in text(tmp_path)


def test_a_spawned_ranks_traceback_goes_into_its_file(tmp_path):
    class TwoNodes:
        node_rank, num_devices = 1, 4

    error = ProcessRaisedException("-- Process 2 terminated ...\nValueError: far away", 2, 123)
    LogFile(tmp_path).on_exception(TwoNodes(), None, error)
    assert "ValueError: far away" in text(tmp_path, "log_globalrank-6_localrank-2.txt")


def test_other_ranks_write_what_the_console_does_not_show(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    own_file.open(log_path(tmp_path, 1, 1))
    logger.info("all ranks say this")
    assert "INFO: all ranks say this" in text(tmp_path, RANK_1)
    assert "all ranks" not in capsys.readouterr().err


def test_what_is_said_once_is_written_once(tmp_path):
    own_file.open(tmp_path / "log.txt")
    for _ in range(2):
        logger.info("a sentence of the log file's test", extra={"once": True})
    assert text(tmp_path).count("a sentence of the log file's test") == 1


def test_names_that_are_no_utf8_are_written(tmp_path):
    own_file.open(tmp_path / "log.txt")
    logger.info("left out: caf\udce9.wav")
    assert r"caf\udce9.wav" in text(tmp_path)


def test_a_second_file_closes_the_first(tmp_path):
    own_file.open(tmp_path / "a.txt")
    own_file.open(tmp_path / "b.txt")
    logger.info("into the second")
    assert "second" in text(tmp_path, "b.txt") and "second" not in text(tmp_path, "a.txt")


def test_a_full_disk_stops_no_message_and_is_said_once(tmp_path, monkeypatch, capsys):
    def full(text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    own_file.open(tmp_path / "log.txt")
    monkeypatch.setattr(own_file._file, "stream", SimpleNamespace(write=full, flush=lambda: None, close=lambda: None))
    for _ in range(2):
        logger.info("still on the console")
    said = capsys.readouterr().err
    assert said.count("still on the console") == 2 and "Traceback" not in said
    assert said.count("log.txt isn't complete: [Errno 28] No space left on device") == 1


# two ranks

RUN_OF_TWO = """
import sys
from lightning.pytorch import Trainer
from tests.utils.experiment.test_log_file import Talker
from utils.exp_manager import exp_manager

if __name__ == "__main__":
    strategy, fails = sys.argv[1], sys.argv[2] == "fails"
    trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, max_steps=2, num_sanity_val_steps=0)
    exp_manager(trainer, {"exp_dir": "runs", "name": "exp", "create_tensorboard_logger": False})
    trainer.fit(Talker(fails))
"""
STARTS = {
    "ddp": [sys.executable],
    "ddp_spawn": [sys.executable],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"],
}


def output_of(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """(exit code, standard error); ranks that wait for each other for ever are ended, too."""
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, said = process.communicate(timeout=200)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups to end what hangs")
@pytest.mark.parametrize("outcome", ["works", "fails"])
@pytest.mark.parametrize("start", STARTS)
def test_each_rank_has_a_file_in_the_one_folder_of_the_run(tmp_path, start, outcome):
    (tmp_path / "run.py").write_text(RUN_OF_TWO, encoding="utf-8")
    strategy = "ddp" if start == "torchrun" else start
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NEMO_EXPM")}
    command = [*STARTS[start], str(tmp_path / "run.py"), strategy, outcome]
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code, said = output_of(command, tmp_path, environment)
    (folder,) = (tmp_path / "runs" / "exp").iterdir()
    assert {path.name for path in folder.glob("log*.txt")} == {"log.txt", RANK_1}, said
    assert "rank 0 is under way" in text(folder) and "rank 1 is under way" in text(folder, RANK_1)
    assert "rank 1 has a warning" in text(folder, RANK_1)
    assert said.count("INFO: rank") == 1
    assert (code == 0) == (outcome == "works")
    if outcome == "fails":
        assert "RuntimeError: rank 1 breaks down" in text(folder, RANK_1)
