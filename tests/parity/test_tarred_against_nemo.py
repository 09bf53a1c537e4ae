"""Tar shards, ours read by NeMo and the order of both, over options that no record has.

Runs where NeMo 3.0.0 can be imported (`pytest -m nemo tests/parity/test_tarred_against_nemo.py` in its environment).
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from torch.utils.data import DataLoader

from data.ssl_dataset import TarredAudioNoiseDataset
from parts.preprocessing.segment import load_audio
from tests.data.test_dataset import first
from tools.make_tarred_dataset import main

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif(importlib.util.find_spec("nemo") is None, reason="needs the real NeMo 3.0.0 to be installed"),
]

RATE = 16000
NUM_FILES = 17


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """17 files of 0.2 to 0.52 s in folders, and a second line, with an offset, for three of them."""
    folder = tmp_path_factory.mktemp("source")
    lines = []
    for number in range(NUM_FILES):
        name, seconds = f"speaker.{number % 3}/{number // 3}.wav", 0.2 + 0.02 * number
        (folder / name).parent.mkdir(exist_ok=True)
        samples = 0.1 * np.random.default_rng(number).standard_normal(round(seconds * RATE))
        soundfile.write(folder / name, samples, RATE)
        lines.append({"audio_filepath": name, "duration": round(seconds, 2), "text": ""})
    lines += [line | {"offset": 0.1, "duration": 0.1} for line in lines[:3]]
    path = folder / "train.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def shards_of(manifest: Path, target: Path, *options: str) -> dict:
    assert main(["--manifest_path", str(manifest), "--target_dir", str(target), *options]) == 0
    last = len(list(target.glob("audio_*.tar"))) - 1
    return {
        "audio_tar_filepaths": str(target / f"audio__OP_0..{last}_CL_.tar"),
        "manifest_filepath": str(target / "tarred_audio_manifest.json"),
    }


def items_of(dataset, workers: int = 0) -> list[bytes]:
    items = DataLoader(dataset, batch_size=1, num_workers=workers, collate_fn=first) if workers else dataset
    return [item.audio.numpy().tobytes() for item in items]


def both(options: dict) -> tuple:
    from nemo.collections.asr.data.ssl_dataset import TarredAudioNoiseDataset as NemoTarredAudioNoiseDataset

    options = {"labels": None, "sample_rate": RATE, "min_audio_len_secs": 0.0} | options
    return TarredAudioNoiseDataset(**options), NemoTarredAudioNoiseDataset(**options)


@pytest.mark.parametrize(
    "options",
    [
        ("--num_shards", "1"),
        ("--num_shards", "4", "--shuffle", "--shuffle_seed", "5"),
        ("--num_shards", "3", "--slice_with_offset"),
        ("--num_shards", "2", "--force_codec", "flac", "--sort_in_shards"),
    ],
)
def test_nemo_reads_every_utterance_of_our_shards(manifest, tmp_path, options):
    ours, nemos = both(shards_of(manifest, tmp_path, *options))
    expected = []
    for line in map(json.loads, manifest.read_text(encoding="utf-8").splitlines()):
        path = manifest.parent / line["audio_filepath"]
        samples = load_audio(path, RATE, offset=line.get("offset", 0.0), duration=line["duration"])
        expected.append(samples.tobytes())
    assert sorted(items_of(nemos)) == sorted(items_of(ours)) == sorted(expected)


@pytest.mark.parametrize("seed", range(25))
def test_ranks_and_workers_get_what_nemo_gives_them(manifest, tmp_path, seed):
    rng = np.random.default_rng(seed)
    num_shards = int(rng.integers(1, 7))
    options = shards_of(manifest, tmp_path, "--num_shards", str(num_shards), "--shuffle", "--shuffle_seed", str(seed))
    options["world_size"] = int(rng.integers(1, num_shards + 1))
    options["global_rank"] = int(rng.integers(options["world_size"]))
    options["shard_strategy"] = str(rng.choice(["scatter", "replicate"]))
    options["min_duration"] = [None, 0.15, 0.3][rng.integers(3)]
    options["max_duration"] = [None, 0.45][rng.integers(2)]
    options["shuffle_n"] = int(rng.choice([0, 0, 3]))
    ours, nemos = both(options)
    workers = int(rng.choice([0, 0, 2]))
    found, expected = items_of(ours, workers), items_of(nemos, workers)
    if options["shuffle_n"]:  # NeMo draws them from a seed of the clock
        found, expected = sorted(found), sorted(expected)
    assert found == expected
    assert len(ours) == len(nemos)


@pytest.mark.parametrize("given", [(2, 0), (3,), (3, 1, 0), (0, 1, 2, 3)])
@pytest.mark.parametrize("bounds", [{}, {"min_duration": 0.15}, {"min_duration": 0.15, "max_duration": 0.45}])
def test_some_of_the_shards_in_any_order_give_nemos_ids_and_length(manifest, tmp_path, given, bounds):
    options = shards_of(manifest, tmp_path, "--num_shards", "4", "--shuffle", "--shuffle_seed", "1")
    options["audio_tar_filepaths"] = [str(tmp_path / f"audio_{shard}.tar") for shard in given]
    ours, nemos = both(options | bounds)
    assert [item.sample_id for item in ours] == [str(item.sample_id) for item in nemos]
    assert len(ours) == len(nemos) and items_of(ours) == items_of(nemos)
    assert not ours.samples.rejected_lines


def test_scripts_of_both_shuffle_alike():
    """NeMo's script seeds Python's generator and shuffles the entries; ours must give its shards."""
    import random

    from tools.tarring.plan import shuffled

    entries = list(range(50))
    random.seed(1)
    random.shuffle(entries)
    assert shuffled(list(range(50)), None, 1) == entries
