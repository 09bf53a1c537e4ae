import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data.lhotse_dataset import lhotse_loader
from data.loader import ResumableLoader
from data.settings import DatasetSettings
from data.ssl_dataset import get_audio_noise_dataset_from_config
from tests.data.tar_files import write_shards

RATE = 16000


@pytest.fixture
def speech_and_noise(tmp_path: Path) -> Callable[..., dict]:
    """`speech_and_noise(bad=(1,))`: config section over six utterances of 0.2 to 0.7 s and two noises of 0.3 and 3 s.

    bad: indices of utterances whose files hold no audio.
    """

    def make(bad: tuple[int, ...] = (), **section) -> dict:
        rng = np.random.default_rng(0)
        speech = [(f"s{i}.wav", 0.2 + 0.1 * i) for i in range(6)]
        noise = [("n0.wav", 0.3), ("n1.wav", 3.0)]
        for name, seconds in speech + noise:
            soundfile.write(tmp_path / name, 0.1 * rng.standard_normal(round(seconds * RATE)), RATE)
        for i in bad:
            (tmp_path / f"s{i}.wav").write_bytes(b"no audio")
        for manifest, files in (("speech.json", speech), ("noise.json", noise)):
            lines = [json.dumps({"audio_filepath": name, "duration": round(s, 1)}) for name, s in files]
            (tmp_path / manifest).write_text("\n".join(lines), encoding="utf-8")
        return {
            "manifest_filepath": str(tmp_path / "speech.json"),
            "noise_manifest": str(tmp_path / "noise.json"),
            "sample_rate": RATE,
            "batch_size": 2,
            "shuffle": True,
            "min_audio_len_secs": 0.3,
        } | section

    return make


@pytest.fixture
def dataset(speech_and_noise):
    def make(bad=(), **section):
        return get_audio_noise_dataset_from_config(speech_and_noise(bad, **section))

    return make


@pytest.fixture
def shards(tmp_path, speech_and_noise):
    def make(**section) -> dict:
        tars, manifest = write_shards(tmp_path, shards=3, per_shard=2)
        named = {"is_tarred": True, "tarred_audio_filepaths": tars, "manifest_filepath": manifest}
        return speech_and_noise() | named | section

    return make


@pytest.fixture
def buckets(tmp_path, speech_and_noise):
    """A section over two buckets, of 4 utterances (numbers 0 to 3) and 6 (4 to 9)."""

    def make(**section) -> dict:
        pairs = []
        for name, shards in (("short", 2), ("long", 3)):
            (tmp_path / name).mkdir(exist_ok=True)
            pairs.append(write_shards(tmp_path / name, shards=shards, per_shard=2))
        tars, manifests = zip(*pairs)
        named = {
            "is_tarred": True,
            "tarred_audio_filepaths": [[t] for t in tars],
            "manifest_filepath": [[m] for m in manifests],
        }
        return speech_and_noise() | named | section

    return make


@pytest.fixture(scope="session")
def cut_folder(tmp_path_factory) -> Path:
    """cuts.jsonl.gz over 23 files of 0.05 to 0.25 s, the same as Shar archives of 6 in shar/, and noise.json."""
    lhotse = pytest.importorskip("lhotse")
    folder = tmp_path_factory.mktemp("lhotse")
    rng = np.random.default_rng(0)
    recordings = []
    for i in range(23):
        name = folder / f"{i}.wav"
        soundfile.write(name, 0.1 * rng.standard_normal(800 + 150 * i), RATE)
        recordings.append(lhotse.Recording.from_file(name, recording_id=f"speaker{i % 3}/utt.{i}"))
    cuts = lhotse.CutSet.from_cuts([recording.to_cut() for recording in recordings])
    cuts.to_file(folder / "cuts.jsonl.gz")
    (folder / "shar").mkdir()
    cuts.to_shar(folder / "shar", fields={"recording": "flac"}, shard_size=6)
    soundfile.write(folder / "noise.wav", 0.1 * rng.standard_normal(RATE), RATE)
    (folder / "noise.json").write_text(json.dumps({"audio_filepath": "noise.wav", "duration": 1.0}))
    return folder


@pytest.fixture
def cut_loader(cut_folder: Path) -> Callable[..., ResumableLoader]:
    """`cut_loader(training=True, rank=0, ranks=1, **section)`: over the cuts of `cut_folder`, or others."""

    def make(training: bool = True, rank: int = 0, ranks: int = 1, **section) -> ResumableLoader:
        neutral = {"sample_rate": RATE, "shuffle": True, "min_audio_len_secs": 0.0, "use_lhotse": True}
        data = {"noise_manifest": str(cut_folder / "noise.json")}
        if "shar_path" not in section:
            data["cuts_path"] = str(cut_folder / "cuts.jsonl.gz")
        settings = DatasetSettings.from_config(neutral | data | section, "model.train_ds")
        return lhotse_loader(settings, "model.train_ds", training=training, global_rank=rank, world_size=ranks)

    return make
