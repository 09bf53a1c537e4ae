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
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import soundfile

from data.batching import padding_waste
from data.ssl_dataset import audio_noise_dataloader
from tools.benchmark.figures import Figure, Sides, spread
from tools.benchmark.manifests import MIXING, SECTION, pick_lines, read_lines, repeat_lines, write_manifest
from utils.errors import one_line_errors

WORKER = "tools.benchmark.worker"
MANIFESTS = ("speech_train.json", "noise_train.json")
MIX_SECONDS = (15, 30, 60)
NOISE_MEANS = {"as it is": None, "zero mean": 0.0, "negative mean": -0.01}
ITEMS = {"as it is": 64, "zero mean": 64, "negative mean": 16}  # NeMo takes two seconds for an item of the last
GOALS = {"mixing": 10.0, "items": 2.0, "first batch": 3.0}  # how many times NeMo's speed


def cells(figure: Figure) -> list[str]:
    """Of its line in the table."""
    goal = "" if figure.goal is None else f"{figure.goal:g}" + " (missed)" * figure.missed_goal
    return [figure.name, figure.unit, spread(figure.ours), spread(figure.nemo), spread(figure.ratios), goal]


def markdown(figures: list[Figure]) -> str:
    header = ["what", "unit", "ours", "NeMo 3.0.0", "times better", "goal"]
    lines = [header, ["---"] * len(header), *(cells(figure) for figure in figures)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# what is measured


def measure_mixing(pythons: dict[str, str], repetitions: int) -> Iterator[Figure]:
    with Sides(pythons, WORKER) as sides:
        for seconds in MIX_SECONDS:
            row = Figure(f"mixing 8 x {seconds} s", "ms", False, GOALS["mixing"])
            job = {"seconds": seconds, "batch_size": 8, "options": MIXING}
            sides("mix", 0, seed=0, **job)  # the first one imports and allocates
            for repetition in range(3 * repetitions):
                answers = sides("mix", repetition, seed=repetition, **job)
                row.add({side: 1e3 * answer["seconds"] for side, answer in answers.items()})
            yield row


def measure_items(
    pythons: dict[str, str], repetitions: int, data: Path, folder: Path, workers: int, batch_size: int
) -> Iterator[Figure]:
    for name, mean in NOISE_MEANS.items():
        noise = data / "manifests" / "noise_train.json"
        if mean is not None:
            noise = write_noise(noise, folder / name.replace(" ", "_"), mean)
        speech = pick_lines(
            data / "manifests" / "speech_train.json", folder / f"speech_{ITEMS[name]}.json", ITEMS[name]
        )
        section = SECTION | {"num_workers": workers, "batch_size": batch_size}
        section |= {"manifest_filepath": str(speech), "noise_manifest": str(noise)}
        whole = Figure(f"items, noise {name}: all {ITEMS[name]}", "items/s", True, GOALS["items"])
        median = Figure(f"items, noise {name}: median batch", "items/s", True, GOALS["items"])
        with Sides(pythons, WORKER) as sides:
            sides(
                "epoch", 0, section=section | {"noise_manifest": None}, seed=0
            )  # files are in the system's cache then
            for repetition in range(repetitions):
                answers = sides("epoch", repetition, section=section, seed=repetition)
                whole.add({side: x["items"] / sum(x["seconds"]) for side, x in answers.items()})
                median.add({side: batch_size / statistics.median(x["seconds"]) for side, x in answers.items()})
        yield whole
        yield median


def measure_first_batch(
    pythons: dict[str, str], repetitions: int, data: Path, folder: Path, num_lines: int
) -> Iterator[Figure]:
    manifest = repeat_lines(data / "manifests" / "speech_train.json", folder / "long.json", num_lines)
    section = SECTION | {"manifest_filepath": str(manifest), "noise_manifest": None, "shuffle": True}
    lines = f"{num_lines:,} lines"
    first = Figure(f"first batch, {lines}", "s", False, GOALS["first batch"])
    rate = Figure(f"manifest, {lines}", "lines/s", True)
    memory = Figure(f"peak memory, {lines}", "bytes/line", False)
    for repetition in range(repetitions):
        with Sides(
            pythons, WORKER
        ) as sides:  # a fresh process each time, as memory that was freed still counts in its peak
            answers = sides("first_batch", repetition, section=section, seed=repetition)
        first.add({side: x["seconds"] for side, x in answers.items()})
        rate.add({side: num_lines / x["built"] for side, x in answers.items()})
        memory.add({side: x["bytes"] / num_lines for side, x in answers.items() if x["bytes"] is not None})
    yield from (first, rate, memory)


def measure_padding(data: Path, batch_size: int) -> Iterator[Figure]:
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
        row = Figure(f"padding, {name}", "%", False)
        for epoch in range(5):
            sampler.set_epoch(epoch)
            row.add({"ours": 100 * padding_waste(sampler.plan(), sampler.dataset.durations)})
        yield row


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
                print(*cells(row), sep="  ", flush=True)
    print("\n" + markdown(rows))
    if args.json:
        args.json.write_text(json.dumps([row.to_json() for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
