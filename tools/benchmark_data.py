"""How fast data is loaded and mixed, beside NeMo 3.0.0 where that is installed.

    python tools/benchmark_data.py --data ../shared/data [--nemo_python PATH] [--workers N] [--json FILE]

Measures, on both sides in turn and on the same files with the same workers:
  mixing       MultiSpeakerNoiseAugmentation on 8 utterances of 15, 30 and 60 s
  items        utterances per second through data set and collate: speech_train with noise_train as it is, with its
               mean removed, and with its mean at -0.01 (written to a temporary folder; NeMo reloads such noise)
  first batch  of a manifest of a million lines (`--lines`), in a fresh process each: seconds and peak memory
  padding      share of padding in the epochs of speech_train, fixed-size and bucketed (ours only)

NeMo gets `channel_selector: average`, as without it its collate fails on stereo files. Every figure is the median over
the repetitions with the lowest and highest; a ratio is taken within each repetition. Ours keeps short noises decoded
from one repetition to the next, as a run does over its epochs: the first repetition is the slowest. Other programs
that run meanwhile make all figures worse.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import soundfile

from data.batching import padding_waste
from data.ssl_dataset import audio_noise_dataloader
from tools.benchmark.worker import ANSWER
from utils.errors import one_line_errors

ROOT = Path(__file__).resolve().parents[1]
MANIFESTS = ("speech_train.json", "noise_train.json")
MIX_SECONDS = (15, 30, 60)
MIXING = {  # of the shipped config, but every utterance is mixed, in up to 5 segments of up to 4 talkers
    "prob": 1.0, "noise_ratio": 0.5, "min_r_speech": -5.0, "max_r_speech": 5.0, "min_r_noise": -5.0,
    "max_r_noise": 20.0, "min_mix_rate": 0.5, "max_mix_rate": 0.5, "min_num_segments": 1, "max_num_segments": 5,
    "min_num_speakers": 1, "max_num_speakers": 4,
}  # fmt: skip
AUGMENTOR = "nemo.collections.asr.modules.ssl_modules.MultiSpeakerNoiseAugmentation"
SECTION = {  # of a training run
    "sample_rate": 16000, "batch_size": 8, "shuffle": False, "num_workers": 0, "drop_last": True,
    "min_duration": 0.5, "max_duration": 60.0, "channel_selector": "average",
    "batch_augmentor": {"_target_": AUGMENTOR, **MIXING, "prob": 0.5},
}  # fmt: skip
NOISE_MEANS = {"as it is": None, "zero mean": 0.0, "negative mean": -0.01}
ITEMS = {"as it is": 64, "zero mean": 64, "negative mean": 16}  # NeMo takes two seconds for an item of the last
GOALS = {"mixing": 10.0, "items": 2.0, "first batch": 3.0}  # how many times NeMo's speed


class Worker:
    """A process that measures one side."""

    def __init__(self, python: str, side: str):
        self.process = subprocess.Popen(
            [python, "-m", "tools.benchmark.worker", side],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self.side = side

    def __call__(self, job: str, **arguments) -> dict:
        self.process.stdin.write(json.dumps({"job": job, **arguments}) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                answer = json.loads(line.removeprefix(ANSWER))
                if "error" in answer:
                    raise SystemExit(f"benchmark_data: {self.side} failed at {job} {arguments}:\n{answer['error']}")
                return answer
        raise SystemExit(f"benchmark_data: `{shlex.join(self.process.args)}` in {ROOT} stopped; run it to see why")

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception) -> None:
        self.process.stdin.close()
        self.process.wait()


@dataclass
class Row:
    """One figure of each side, per repetition. ratio: how many times better ours is."""

    name: str
    unit: str
    more_is_better: bool
    goal: float | None = None
    ours: list[float] = field(default_factory=list)
    nemo: list[float] = field(default_factory=list)

    def add(self, figures: dict[str, float]) -> None:
        self.ours.append(figures["ours"])
        if "nemo" in figures:
            self.nemo.append(figures["nemo"])

    @property
    def ratios(self) -> list[float]:
        pairs = zip(self.ours, self.nemo)
        return [(ours / nemo if self.more_is_better else nemo / ours) if ours and nemo else 1.0 for ours, nemo in pairs]

    def cells(self) -> list[str]:
        missed = bool(self.goal and self.nemo and statistics.median(self.ratios) < self.goal)
        goal = "" if self.goal is None else f"{self.goal:g}" + " (missed)" * missed
        return [self.name, self.unit, spread(self.ours), spread(self.nemo), spread(self.ratios), goal]


def spread(values: list[float]) -> str:
    """Median (lowest to highest)."""
    if not values:
        return "-"
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def markdown(rows: list[Row]) -> str:
    header = ["what", "unit", "ours", "NeMo 3.0.0", "times better", "goal"]
    lines = [header, ["---"] * len(header), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# what is measured


def measure_mixing(pythons: dict[str, str], repetitions: int) -> Iterator[Row]:
    with Sides(pythons) as sides:
        for seconds in MIX_SECONDS:
            row = Row(f"mixing 8 x {seconds} s", "ms", False, GOALS["mixing"])
            job = {"seconds": seconds, "batch_size": 8, "options": MIXING}
            sides("mix", seed=0, **job)  # the first one imports and allocates
            for repetition in range(3 * repetitions):
                answers = sides("mix", seed=repetition, **job)
                row.add({side: 1e3 * answer["seconds"] for side, answer in answers.items()})
            yield row


def measure_items(
    pythons: dict[str, str], repetitions: int, data: Path, folder: Path, workers: int, batch_size: int
) -> Iterator[Row]:
    for name, mean in NOISE_MEANS.items():
        noise = data / "manifests" / "noise_train.json"
        if mean is not None:
            noise = write_noise(noise, folder / name.replace(" ", "_"), mean)
        speech = pick_lines(
            data / "manifests" / "speech_train.json", folder / f"speech_{ITEMS[name]}.json", ITEMS[name]
        )
        section = SECTION | {"num_workers": workers, "batch_size": batch_size}
        section |= {"manifest_filepath": str(speech), "noise_manifest": str(noise)}
        whole = Row(f"items, noise {name}: all {ITEMS[name]}", "items/s", True, GOALS["items"])
        median = Row(f"items, noise {name}: median batch", "items/s", True, GOALS["items"])
        with Sides(pythons) as sides:
            sides("epoch", section=section | {"noise_manifest": None}, seed=0)  # files are in the system's cache then
            for repetition in range(repetitions):
                answers = sides("epoch", section=section, seed=repetition)
                whole.add({side: x["items"] / sum(x["seconds"]) for side, x in answers.items()})
                median.add({side: batch_size / statistics.median(x["seconds"]) for side, x in answers.items()})
        yield whole
        yield median


def measure_first_batch(
    pythons: dict[str, str], repetitions: int, data: Path, folder: Path, num_lines: int
) -> Iterator[Row]:
    manifest = repeat_lines(data / "manifests" / "speech_train.json", folder / "long.json", num_lines)
    section = SECTION | {"manifest_filepath": str(manifest), "noise_manifest": None, "shuffle": True}
    lines = f"{num_lines:,} lines"
    first = Row(f"first batch, {lines}", "s", False, GOALS["first batch"])
    rate = Row(f"manifest, {lines}", "lines/s", True)
    memory = Row(f"peak memory, {lines}", "bytes/line", False)
    for repetition in range(repetitions):
        with Sides(pythons) as sides:  # a fresh process each time, as memory that was freed still counts in its peak
            answers = sides("first_batch", section=section, seed=repetition)
        first.add({side: x["seconds"] for side, x in answers.items()})
        rate.add({side: num_lines / x["built"] for side, x in answers.items()})
        memory.add({side: x["bytes"] / num_lines for side, x in answers.items()})
    yield from (first, rate, memory)


def measure_padding(data: Path, batch_size: int) -> Iterator[Row]:
    speech = str(data / "manifests" / "speech_train.json")
    section = SECTION | {"manifest_filepath": speech, "shuffle": True, "batch_augmentor": None}
    seconds = 60.0
    options = {
        f"fixed size {batch_size}": {"batch_size": batch_size},
        f"batch_duration {seconds:g}": {"batch_size": None, "batch_duration": seconds},
        f"batch_duration {seconds:g}, 10 buckets": {"batch_size": None, "batch_duration": seconds, "num_buckets": 10},
    }
    for name, batching in options.items():
        sampler = audio_noise_dataloader(section | batching).sampler
        row = Row(f"padding, {name}", "%", False)
        for epoch in range(5):
            sampler.set_epoch(epoch)
            row.add({"ours": 100 * padding_waste(sampler.plan(), sampler.dataset.durations)})
        yield row


class Sides:
    """A worker of each side; a job goes to one after the other, and the next repetition the other way round."""

    def __init__(self, pythons: dict[str, str]):
        self.workers = {side: Worker(python, side) for side, python in pythons.items()}

    def __call__(self, job: str, seed: int, **arguments) -> dict[str, dict]:
        """seed: also the number of the repetition."""
        in_turn = [*self.workers.items()][:: -1 if seed % 2 else 1]
        return {side: worker(job, seed=seed, **arguments) for side, worker in in_turn}

    def __enter__(self) -> "Sides":
        return self

    def __exit__(self, *exception) -> None:
        for worker in self.workers.values():
            worker.__exit__()


# manifests


def read_lines(manifest: Path) -> list[dict]:
    """Entries with absolute paths."""
    entries = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [e | {"audio_filepath": str((manifest.parent / e["audio_filepath"]).resolve())} for e in entries]


def write_manifest(path: Path, entries: list[dict]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def pick_lines(manifest: Path, path: Path, count: int) -> Path:
    """A random choice of lines, the same each time."""
    entries = read_lines(manifest)
    chosen = np.random.default_rng(0).permutation(len(entries))[:count]
    return write_manifest(path, [entries[i] for i in chosen])


def repeat_lines(manifest: Path, path: Path, count: int) -> Path:
    """`count` lines: those of the manifest, over and over, with text as long as a sentence."""
    entries = [entry | {"text": entry.get("text") or "what is said in it " * 4} for entry in read_lines(manifest)]
    lines = [json.dumps(entry) + "\n" for entry in entries]
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            file.write(lines[i % len(lines)])
    return path


def write_noise(manifest: Path, folder: Path, mean: float) -> Path:
    """Copies of the noise files with another mean, as FLAC at their own rate, and their manifest."""
    folder.mkdir()
    entries = read_lines(manifest)
    for number, entry in enumerate(entries):
        samples, rate = soundfile.read(entry["audio_filepath"], dtype="float32")
        samples = samples - samples.mean(axis=0) + mean
        entry["audio_filepath"] = str(folder / f"{number}.flac")
        soundfile.write(entry["audio_filepath"], samples.clip(-1, 1), rate)
    return write_manifest(folder / "noise.json", entries)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifests/speech_train.json and others")
    parser.add_argument("--nemo_python", metavar="PATH", help="python of an environment with nemo_toolkit[asr] 3.0.0")
    parser.add_argument("--workers", type=int, default=0, help="loader workers of both sides, for items")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--lines", type=int, default=1_000_000, help="of the long manifest")
    parser.add_argument("--only", nargs="+", choices=[*GOALS, "padding"], default=[*GOALS, "padding"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures there")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    with one_line_errors(2, also=(OSError,)):
        measure(args)


def measure(args: argparse.Namespace) -> None:
    for name in MANIFESTS:
        if not (args.data / "manifests" / name).is_file():
            raise FileNotFoundError(f"--data={args.data} has no manifests/{name}; give the folder that has it")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    pythons = {"ours": sys.executable} | ({"nemo": args.nemo_python} if args.nemo_python else {})
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measures = {
            "mixing": lambda: measure_mixing(pythons, args.repetitions),
            "items": lambda: measure_items(pythons, args.repetitions, args.data, folder, args.workers, args.batch_size),
            "first batch": lambda: measure_first_batch(pythons, args.repetitions, args.data, folder, args.lines),
            "padding": lambda: measure_padding(args.data, args.batch_size),
        }
        for name in args.only:
            for row in measures[name]():
                rows.append(row)
                print(*row.cells(), sep="  ", flush=True)
    print("\n" + markdown(rows))
    if args.json:
        figures = [asdict(row) | {"times_better": row.ratios} for row in rows]
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
