"""Tar shards with manifests, made for a test."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000


def wav_bytes(seed: int, seconds: float = 0.2) -> bytes:
    """Noise of its own for each seed."""
    file = io.BytesIO()
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    soundfile.write(file, samples, RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_lines(path: Path, lines: Sequence[dict]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_shards(folder: Path, shards: int = 3, per_shard: int = 2) -> tuple[str, str]:
    """audio_0.tar, ... with u0.wav, u1.wav, ... in turn; returns pattern of the tars and path of the manifest."""
    lines = []
    for shard in range(shards):
        numbers = range(shard * per_shard, (shard + 1) * per_shard)
        write_tar(folder / f"audio_{shard}.tar", {f"u{number}.wav": wav_bytes(number) for number in numbers})
        lines += [{"audio_filepath": f"u{number}.wav", "duration": 0.2, "shard_id": shard} for number in numbers]
    manifest = write_lines(folder / "tarred_audio_manifest.json", lines)
    return str(folder / f"audio__OP_0..{shards - 1}_CL_.tar"), str(manifest)
