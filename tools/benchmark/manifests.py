"""Manifests to measure on, and the section of a training run that reads them."""

import json
from pathlib import Path

import numpy as np

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
