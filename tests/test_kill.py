"""Runs killed with SIGKILL at any moment go on to the weights of the run that nobody killed, bit for bit.

NEST_SSL_KILLS sets the number of kills per kind of run (default: 18 uniform over wall time, 4 inside a save), and
NEST_SSL_KILL_JOBS how many runs at once (default: one per core).
"""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.recorded_train import RECORD
from utils.checkpoint_files.files import UNFINISHED
from utils.cores import usable_cores
from utils.experiment.csv_logger import TABLE_FILE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts the processes of a session in /proc"),
]

ROOT = Path(__file__).resolve().parents[1]
KILLS = int(os.environ.get("NEST_SSL_KILLS", 18))  # per kind
SAVES_KILLED = max(1, KILLS // 4)
JOBS = int(os.environ.get("NEST_SSL_KILL_JOBS", usable_cores()))
STEPS, INTERVAL = 40, 4  # of a run, and between its checkpoints
SECONDS_TO_VANISH = 15.0  # a loader's worker looks for its parent every 5 s
MEASURED = ("data/",)  # beginnings of columns: what a process measures, since it began
COMMON = (
    "seed=1",
    "model.encoder.n_layers=1",
    "model.encoder.d_model=16",
    "model.encoder.n_heads=2",
    "model.encoder.subsampling_conv_channels=4",
    "model.num_classes=16",
    "model.masking.min_masks=1",
    "model.train_ds.noise_manifest=noise.json",
    "model.validation_ds.manifest_filepath=val.json",
    "model.validation_ds.noise_manifest=noise.json",
    f"trainer.max_steps={STEPS}",
    f"trainer.val_check_interval={INTERVAL}",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "exp_manager.checkpoint_callback_params.save_top_k=2",
    "exp_manager.create_tensorboard_logger=false",
    "+exp_manager.log_step_timing=false",  # no two runs take the same time
    "exp_manager.create_csv_logger=true",
    "trainer.log_every_n_steps=3",
    "exp_manager.create_early_stopping_callback=true",
    "+exp_manager.ema.enable=true",
    "+exp_manager.ema.decay=0.5",
    "+exp_manager.ema.every_n_steps=2",
    "exp_manager.resume_if_exists=true",
)
KINDS = {
    "manifest with two workers": (
        "model.train_ds.manifest_filepath=train.json",
        "model.train_ds.batch_size=2",
        "model.train_ds.num_workers=2",
    ),
    "tarred, the rate by the loss": (
        "model.train_ds.is_tarred=true",
        "model.train_ds.tarred_audio_filepaths=tarred/audio__OP_0..1_CL_.tar",
        "model.train_ds.manifest_filepath=tarred/tarred_audio_manifest.json",
        "model.train_ds.batch_size=2",
        "model.train_ds.shuffle_n=4",
        "~model.optim.sched",
        "+model.optim.sched={name: ReduceLROnPlateau, patience: 0, factor: 0.5, threshold: 10, monitor: val_loss}",
    ),
    "dynamic batches, gradients over two": (
        "model.train_ds.manifest_filepath=train.json",
        "model.train_ds.batch_size=null",
        "model.train_ds.batch_duration=4.0",
        "model.train_ds.num_buckets=3",
        "trainer.accumulate_grad_batches=2",
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder with manifests of 26 utterances of 1 to 2.25 s, 3 to validate on, 3 of noise, and two tars."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, count in (("train", 26), ("val", 3), ("noise", 3)):
        lines = []
        for index in range(count):
            samples = np.convolve(rng.standard_normal(16000 + 800 * index), np.ones(8) / 8, mode="same") * 0.1
            soundfile.write(folder / f"{name}{index}.wav", samples, 16000)
            line = {"audio_filepath": str(folder / f"{name}{index}.wav"), "duration": len(samples) / 16000}
            lines.append(json.dumps(line))
        (folder / f"{name}.json").write_text("\n".join(lines), encoding="utf-8")
    tar = [ROOT / "tools/make_tarred_dataset.py", "--manifest_path=train.json", "--target_dir=tarred", "--num_shards=2"]
    subprocess.run([sys.executable, *map(str, tar)], cwd=folder, check=True, capture_output=True)
    return folder


@dataclass
class Run:
    """A run of `train.py` in a folder of its own, from its first process to the one that ends it."""

    kind: str
    data: Path
    folder: Path

    @property
    def record(self) -> Path:
        return self.folder / "record.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "exp" / "SSL-NEST-FastConformer" / "checkpoints"

    def start(self) -> subprocess.Popen:
        """In a session of its own, by which its workers are found."""
        self.folder.mkdir(exist_ok=True)
        command = [sys.executable, str(ROOT / "tests/recorded_train.py"), *KINDS[self.kind], *COMMON]
        with open(self.folder / "output.txt", "ab") as output:
            return subprocess.Popen(
                [*command, f"exp_manager.exp_dir={self.folder / 'exp'}"],
                cwd=self.data,
                env={**os.environ, "OMP_NUM_THREADS": "1", RECORD: str(self.record)},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def finish(self) -> float:
        """Run to the end; returns the seconds it took."""
        begun = time.monotonic()
        assert self.start().wait(timeout=600) == 0, (self.folder / "output.txt").read_text(encoding="utf-8")[-3000:]
        return time.monotonic() - begun

    def steps(self) -> list[dict]:
        """What its training steps saw, those that were done again included."""
        return [json.loads(line) for line in self.record.read_text().splitlines()] if self.record.exists() else []

    def logged(self) -> set[tuple[str, str, str]]:
        """(step, name, value) of metrics.csv, but for what two runs never share; which share a line doesn't matter."""
        with open(self.checkpoints.parent / TABLE_FILE, newline="", encoding="utf-8") as file:
            return {
                (line["step"], name, value)
                for line in csv.DictReader(file)
                for name, value in line.items()
                if value and not name.startswith(MEASURED)
            }

    def files(self) -> set[str]:
        return {path.name for path in self.checkpoints.rglob("*")}

    def last(self) -> dict:
        (path,) = self.checkpoints.glob("*last.ckpt")
        return torch.load(path, weights_only=True)


@pytest.fixture(scope="module", params=KINDS)
def uninterrupted(request, data, tmp_path_factory) -> tuple[Run, float]:
    run = Run(request.param, data, tmp_path_factory.mktemp("uninterrupted"))
    run.finish()  # with cold files
    again = Run(request.param, data, tmp_path_factory.mktemp("timed"))
    return run, again.finish()


def wait_for_time(seconds: float) -> Callable:
    def wait(process: subprocess.Popen, run: Run) -> None:
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return

    return wait


def wait_for_save(number: int, seconds: float) -> Callable:
    """Until the file of the n-th save is being written, and a moment longer."""

    def wait(process: subprocess.Popen, run: Run) -> None:
        seen: set[str] = set()
        while process.poll() is None and len(seen) < number:
            seen.update(name for name in names_in(run.checkpoints) if name.endswith(UNFINISHED))
        time.sleep(seconds)

    return wait


def names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def in_session(session: int) -> Iterator[int]:
    """Processes of a session that haven't ended."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, owner = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(owner) == session and state != "Z":
            yield int(path.parent.name)


def kill(run: Run, wait: Callable) -> dict:
    """Start the run and kill it: its first process only, as the others must notice by themselves."""
    done_before = len(run.steps())
    begun = time.monotonic()
    process = run.start()
    wait(process, run)
    was_alive, seconds = process.poll() is None, time.monotonic() - begun
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed_at = time.monotonic()
    saving = [name for name in run.files() if name.endswith(UNFINISHED)] if run.checkpoints.exists() else []
    deadline = killed_at + SECONDS_TO_VANISH
    while (left := list(in_session(process.pid))) and time.monotonic() < deadline:
        time.sleep(0.2)
    steps = [step["step"] for step in run.steps()[done_before:]]
    return {
        "alive": was_alive,
        "seconds": seconds,
        "saving": bool(saving),
        "orphans": left,
        "reached": max(steps, default=0),  # the step that it was in
        "resumed": max(steps, default=0),  # nothing is lost until the next process starts
    }


def check_same(ours: object, theirs: object, folders: tuple[Path, Path], place: str) -> None:
    """Equal to the last bit, but for the folder of the run."""
    if isinstance(theirs, dict):
        ours, theirs = (
            {moved(key, folder): value for key, value in state.items()}
            for state, folder in zip((ours, theirs), folders)
        )
        assert ours.keys() == theirs.keys(), place
        for key in theirs:
            check_same(ours[key], theirs[key], folders, f"{place}.{key}")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), place
        for index, (one, other) in enumerate(zip(ours, theirs)):
            check_same(one, other, folders, f"{place}[{index}]")
    elif isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs), f"{place} differs by {(ours - theirs).abs().max()}"
    else:
        assert moved(ours, folders[0]) == moved(theirs, folders[1]), f"{place}: {ours} instead of {theirs}"


def moved(value: object, folder: Path) -> object:
    return value.replace(str(folder), "RUN") if isinstance(value, str) else value


PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step", "epoch")


def check(run: Run, whole: Run, deaths: list[dict]) -> None:
    """After its last process the run is where nobody's interruption would show."""
    ours, theirs = run.last(), whole.last()
    for part in PARTS:
        check_same(ours[part], theirs[part], (run.folder, whole.folder), part)
    assert run.files() == whole.files()
    assert run.logged() == whole.logged()
    expected = {(step["epoch"], step["batch"]): step for step in whole.steps()}
    assert all(step == expected[step["epoch"], step["batch"]] for step in run.steps())
    for death in deaths:
        assert not death["orphans"], death
        assert death["reached"] - death["resumed"] <= INTERVAL, death


def killed_run(name: str, waits: list[Callable], whole: Run, folder: Path) -> list[dict]:
    """A run that is killed as often as there are waits, and then goes on to its end."""
    run, deaths = Run(whole.kind, whole.data, folder / name), []
    for wait in waits:
        deaths.append(kill(run, wait))
    seen = len(run.steps())
    run.finish()
    following = run.steps()[seen:]
    deaths[-1]["resumed"] = following[0]["step"] if following else STEPS
    check(run, whole, deaths)
    return deaths


def killed_at(share: float, number: int, whole: Run, seconds: float, folder: Path) -> list[dict]:
    """A run that is killed after a share of its wall time; once more where it was quicker than the one timed."""
    for trial in "abcde":
        deaths = killed_run(f"{number}{trial}", [wait_for_time(share * seconds)], whole, folder)
        if deaths[0]["alive"]:
            break
        seconds = deaths[0]["seconds"]
    return deaths


def all_killed(how: Callable, plans: list) -> list[dict]:
    """how(number, plan) -> deaths"""
    with ThreadPoolExecutor(JOBS) as jobs:
        return [death for deaths in jobs.map(how, range(len(plans)), plans) for death in deaths]


def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(uninterrupted, tmp_path):
    whole, seconds = uninterrupted
    rng = random.Random(f"{whole.kind}, uniform")
    shares = [rng.random() for _ in range(KILLS)]
    deaths = all_killed(lambda number, share: killed_at(share, number, whole, seconds, tmp_path), shares)
    alive, training = (sum(bool(death[what]) for death in deaths) for what in ("alive", "reached"))
    print(f"{whole.kind}: {alive} of {KILLS} kills over {seconds:.1f} s came before the end, {training} in training")
    assert alive == KILLS


def test_a_run_killed_within_saves_ends_as_if_it_had_not_been(uninterrupted, tmp_path):
    """Each is killed in two saves, the second after it went on."""
    whole, _ = uninterrupted
    rng = random.Random(f"{whole.kind}, saves")
    plans = [[wait_for_save(rng.randint(1, 6), rng.uniform(0.0, 0.003)) for _ in range(2)] for _ in range(SAVES_KILLED)]
    deaths = all_killed(lambda number, waits: killed_run(str(number), waits, whole, tmp_path), plans)
    broken_off = sum(death["saving"] for death in deaths)
    print(f"{whole.kind}: {broken_off} of {len(deaths)} kills left a half-written file")
    assert all(death["alive"] for death in deaths) and broken_off
