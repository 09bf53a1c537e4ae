"""Real runs of `train.py` that go on with another number of processes: each utterance is trained on once per epoch."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.recorded_train import RECORD
from tests.tiny_training import TINY_MODEL, write_noise

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
UTTERANCES = 23
OPTIONS = (
    *TINY_MODEL,
    "model.train_ds.manifest_filepath=train.json",
    "model.train_ds.drop_last=false",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "exp_manager.create_tensorboard_logger=false",
    "exp_manager.exp_dir=exp",
)
BATCHES = {
    "of two": ("model.train_ds.batch_size=2",),
    "dynamic": ("model.train_ds.batch_size=null", "model.train_ds.batch_duration=4.0", "model.train_ds.num_buckets=2"),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    write_noise(tmp_path, "train", range(16000, 16000 + 600 * UTTERANCES, 600), np.random.default_rng(0))
    return tmp_path


def train(folder: Path, devices: int, max_steps: int, options: tuple[str, ...]) -> None:
    strategy = ("trainer.strategy=ddp",) if devices > 1 else ()
    length = (f"trainer.devices={devices}", f"trainer.max_steps={max_steps}", "trainer.max_epochs=2")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/recorded_train.py"), *OPTIONS, *options, *strategy, *length],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", RECORD: str(folder / "record.jsonl")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("kind", BATCHES)
def test_each_utterance_comes_once_per_epoch_with_one_two_and_one_device(folder, kind):
    for devices, max_steps in ((1, 4), (2, 10), (1, 1000)):
        train(folder, devices, max_steps, BATCHES[kind])
    steps = [json.loads(line) for line in (folder / "record.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {step["rank"] for step in steps} == {0, 1}
    for epoch in range(2):
        seen = Counter(name for step in steps if step["epoch"] == epoch for name in step["ids"])
        assert seen == Counter(str(index) for index in range(UTTERANCES))
