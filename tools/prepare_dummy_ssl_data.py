"""Make a small data set of synthetic speech and noise, with NeMo manifests, to try the training on.

    python tools/prepare_dummy_ssl_data.py
    python tools/prepare_dummy_ssl_data.py --output_dir some/folder --num_train 1000 --num_talkers 20

The talkers say sentences of a small invented language (tools/synthetic_speech.py), the noise is of several kinds
(tools/synthetic_noise.py). The validation set has talkers of its own. The same arguments give the same samples, and
each file depends on the seed and its own number only: a larger set begins with the smaller one.
"""

import argparse
import json
import sys
import wave
from collections.abc import Iterable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.synthetic_noise import NOISES, make_noise
from tools.synthetic_speech import Talker, make_talker, say_something

SPLITS = ("train", "val", "noise", "noise_val")  # a split's place here is part of its random seed


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    print(f"Writing synthetic speech and noise to {args.output_dir} ...", flush=True)
    splits = {
        "train": speech_lines(args, "train", args.num_train, args.num_talkers),
        "val": speech_lines(args, "val", args.num_val, max(1, args.num_talkers // 3)),
        "noise": noise_lines(args, "noise", args.num_noise),
        "noise_val": noise_lines(args, "noise_val", len(NOISES)),
    }
    for split, lines in splits.items():
        files, seconds = write_manifest(manifest_path(args.output_dir, split), lines)
        print(f"  {manifest_path(args.output_dir, split).name}: {files} files, {seconds / 60:.1f} minutes", flush=True)
    print("Now train on it:\n  " + train_command(args.output_dir))


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Make a small data set of synthetic speech and noise, with NeMo manifests.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output_dir", type=Path, default=Path("data/dummy_ssl"), help="folder to write to")
    parser.add_argument("--num_train", type=int, default=200, help="utterances to train on")
    parser.add_argument("--num_val", type=int, default=40, help="utterances for validation")
    parser.add_argument("--num_noise", type=int, default=24, help="noise files to train with")
    parser.add_argument("--num_talkers", type=int, default=9, help="to train on; validation has a third, others")
    parser.add_argument("--min_duration", type=float, default=4.0, help="seconds, of the shortest file")
    parser.add_argument("--max_duration", type=float, default=10.0, help="seconds, of the longest file")
    parser.add_argument("--sample_rate", type=int, default=16000, help="Hz")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other talkers, sentences and noise")
    args = parser.parse_args(arguments)
    for name in ("num_train", "num_val", "num_noise", "num_talkers"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}={getattr(args, name)} is below 1")
    if not 1.0 <= args.min_duration <= args.max_duration:
        parser.error(f"--min_duration={args.min_duration} is not between 1 and --max_duration={args.max_duration}")
    if args.sample_rate < 8000:
        parser.error(f"--sample_rate={args.sample_rate} is below 8000")
    if args.seed < 0:
        parser.error(f"--seed={args.seed} is below 0")
    return args


def speech_lines(args: argparse.Namespace, split: str, count: int, num_talkers: int) -> Iterable[dict]:
    """Write the speech files of a split; yields their manifest lines."""
    talkers = [talker_of(args.seed, split, number) for number in range(num_talkers)]
    for number in range(count):
        rng = random_numbers(args.seed, split, number)
        talker = talkers[number % num_talkers]
        seconds = round(rng.uniform(args.min_duration, args.max_duration), 3)
        speech, text = say_something(talker, seconds, args.sample_rate, rng)
        name = f"{split}/{talker.name}-{number:05d}.wav"
        yield write_audio(args, name, speech) | {"text": text, "speaker": talker.name}


def noise_lines(args: argparse.Namespace, split: str, count: int) -> Iterable[dict]:
    """Write the noise files of a split, kind after kind; yields their manifest lines."""
    for number in range(count):
        rng = random_numbers(args.seed, split, number)
        kind = list(NOISES)[number % len(NOISES)]
        seconds = round(rng.uniform(args.min_duration, args.max_duration), 3)
        noise = make_noise(kind, seconds, args.sample_rate, rng)
        yield write_audio(args, f"{split}/{kind}-{number:05d}.wav", noise) | {"text": "", "label": kind}


def talker_of(seed: int, split: str, number: int) -> Talker:
    return make_talker(f"{split}{number:02d}", np.random.default_rng((seed, SPLITS.index(split), number, 1)))


def random_numbers(seed: int, split: str, number: int) -> np.random.Generator:
    return np.random.default_rng((seed, SPLITS.index(split), number))


def write_audio(args: argparse.Namespace, name: str, samples: np.ndarray) -> dict:
    """Write (N,) in [-1, 1] as 16-bit WAV; returns its path from the manifest's folder and its duration."""
    path = args.output_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(args.sample_rate)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return {"audio_filepath": name, "duration": len(samples) / args.sample_rate}


def write_manifest(path: Path, lines: Iterable[dict]) -> tuple[int, float]:
    """One JSON object per line; returns how many, and their seconds."""
    lines = list(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return len(lines), sum(line["duration"] for line in lines)


def manifest_path(folder: Path, split: str) -> Path:
    return folder / f"{split}_manifest.json"


def train_command(folder: Path) -> str:
    train, val, noise, noise_val = (manifest_path(folder, split).as_posix() for split in SPLITS)
    return (
        f"python train.py model.train_ds.manifest_filepath={train} model.train_ds.noise_manifest={noise} "
        f"model.validation_ds.manifest_filepath={val} model.validation_ds.noise_manifest={noise_val}"
    )


if __name__ == "__main__":
    main()
