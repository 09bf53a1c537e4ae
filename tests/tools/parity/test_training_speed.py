import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tools.benchmark.manifests import SECTION
from tools.parity import training_speed
from tools.parity.cases import DENOISE, make_audio, model_case
from tools.parity.records import Job, Record, save
from tools.parity.training_speed import PARTS, Training


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def written(folder: Path, **changes) -> str:
    job = Job("small", model_case(DENOISE, **changes), (), inputs=make_audio(), neutralised={"encoder.dropout": 0.0})
    save(Record(job, {}), folder / "job.safetensors")
    return str(folder / "job.safetensors")


def test_a_step_trains_and_is_timed_in_its_parts(tmp_path):
    training = Training("ours")
    assert set(training.train(written(tmp_path), threads=1)) == set(PARTS)
    before = {name: p.detach().clone() for name, p in training.model.named_parameters() if p.requires_grad}
    seconds = training.step(seed=1)
    moved = {name for name, p in training.model.named_parameters() if name in before and not p.equal(before[name])}
    assert list(seconds) == list(PARTS) and min(seconds.values()) > 0
    assert any(name.startswith("encoder.layers") for name in moved) and "decoder.decoder_layers.0.weight" in moved


def test_it_trains_as_the_config_says_with_dropout_and_these_threads(tmp_path):
    training = Training("ours")
    training.train(written(tmp_path, **{"encoder.dropout": 0.3}), threads=2)
    assert training.model.encoder.layers[0].dropout.p == 0.3 and training.model.training
    assert torch.get_num_threads() == 2


def test_a_config_without_a_schedule_is_trained(tmp_path):
    training = Training("ours")
    training.train(written(tmp_path, optim={"name": "adamw", "lr": 1e-3}), threads=1)
    assert training.scheduler is None and training.step(seed=1)


def test_memory_counts_from_when_all_was_imported(monkeypatch):
    monkeypatch.setattr(training_speed, "peak_bytes", iter([1000, 1500]).__next__)
    assert Training("ours").memory() == {"bytes": 500}
    monkeypatch.setattr(training_speed, "peak_bytes", lambda: None)
    assert Training("ours").memory() == {"bytes": None}


def test_an_epoch_is_loaded_through_data_set_and_collate(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(16000), 16000)
    lines = [json.dumps({"audio_filepath": f"{name}.wav", "duration": 1.0}) for name in ("a", "b", "c")]
    (tmp_path / "speech.json").write_text("\n".join(lines), encoding="utf-8")
    section = SECTION | {"manifest_filepath": str(tmp_path / "speech.json"), "noise_manifest": None}
    answer = Training("ours").epoch(section | {"batch_size": 2, "drop_last": False}, seed=0)
    assert answer["items"] == 3 and len(answer["seconds"]) == 2
