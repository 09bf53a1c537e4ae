import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from data.audio_noise_dataset import AudioNoiseDataset
from data.samplers import Draw
from data.ssl_dataset import audio_noise_dataloader, get_audio_noise_dataset_from_config
from parts.batch_types import AudioNoiseItem


def same(one: AudioNoiseItem, other: AudioNoiseItem) -> bool:
    return torch.equal(one.audio, other.audio) and torch.equal(one.noise, other.noise) and one.seed == other.seed


def test_short_utterances_are_padded_to_the_least_length(dataset):
    lengths = [int(item.audio_len) for item in dataset(min_audio_len_secs=0.35)]
    assert lengths == [5600, 5600, 6400, 8000, 9600, 11200]


def test_an_item_depends_on_seed_epoch_and_index_alone(dataset):
    ds, again = dataset(), dataset()
    backwards = [ds[Draw(1, i)] for i in reversed(range(6))][::-1]
    torch.rand(3), np.random.rand(3)
    assert all(same(again[Draw(1, i)], backwards[i]) for i in range(6))


def test_another_epoch_or_seed_has_the_same_speech_with_other_noise(dataset):
    items = list(dataset())
    for others in ([dataset()[Draw(1, i)] for i in range(6)], list(dataset(seed=1))):
        pairs = list(zip(items, others, strict=True))
        assert all(torch.equal(one.audio, other.audio) for one, other in pairs)
        assert not any(one.seed == other.seed for one, other in pairs)
        assert sum(not torch.equal(one.noise, other.noise) for one, other in pairs) >= 3


def test_a_plain_index_means_epoch_zero_and_iteration_ends(dataset):
    ds = dataset()
    assert same(ds[3], ds[Draw(0, 3)])
    assert len(list(ds)) == len(ds) == 6


def test_noise_has_the_length_of_the_audio_and_zeros_without_a_manifest(dataset):
    for item in dataset():
        assert item.noise.shape == item.audio.shape and 0 < item.noise_len <= item.audio_len
    item = dataset(noise_manifest=None)[0]
    assert not item.noise.any() and item.noise_len == item.audio_len


def test_a_data_set_and_its_collate_survive_pickling_as_spawned_workers_need(dataset):
    ds = dataset()
    collate = pickle.loads(pickle.dumps(ds.collate_fn))
    assert same(pickle.loads(pickle.dumps(ds))[2], ds[2])
    assert torch.equal(collate([ds[2]]).noisy_audio, ds.collate_fn([ds[2]]).noisy_audio)


def test_items_and_batches_leave_the_global_generators_alone(dataset):
    ds = dataset()
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    ds.collate_fn(list(ds))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


# ------------------------------------------------------------------------------------------------- what can't be used


def test_a_bad_sample_is_listed_and_another_of_about_its_length_stands_in(dataset):
    ds = dataset(bad=(3,))
    items = [ds[Draw(epoch, 3)] for epoch in range(20)]
    assert {item.sample_id for item in items} <= {"0", "1", "2", "4", "5"} and len({i.sample_id for i in items}) > 1
    assert all(same(item, ds[Draw(epoch, 3)]) for epoch, item in enumerate(items))
    (bad,) = items[0].rejected
    assert (Path(bad.path).name, bad.reason, Path(bad.manifest).name, bad.line) == (
        "s3.wav",
        "unreadable",
        "speech.json",
        4,
    )


def test_what_stands_in_is_hardly_longer(dataset, monkeypatch):
    monkeypatch.setattr("data.audio_noise_dataset.SIMILAR", 2)
    monkeypatch.setattr("data.audio_noise_dataset.FEWEST", 3)
    ds = dataset(bad=(4,))
    assert {ds[Draw(epoch, 4)].sample_id for epoch in range(20)} == {"2", "3"}
    assert {*ds.stand_ins(0, np.random.default_rng(0))[:20]} == {1, 2}


@pytest.mark.parametrize("seconds", [None, 0.1, 5.0])
@pytest.mark.parametrize("batching", [{"batch_size": 8}, {"batch_size": None, "batch_duration": 8.0}])
def test_files_that_are_bad_together_leave_batches_full(speech_and_noise, tmp_path, seconds, batching):
    good = [{"audio_filepath": f"s{i % 6}.wav", "duration": 0.2 + 0.1 * (i % 6), "offset": 0} for i in range(60)]
    bad = [{"audio_filepath": f"gone{i}.wav", "duration": seconds} for i in range(25)]
    section = speech_and_noise(**batching)
    (tmp_path / "speech.json").write_text("\n".join(map(json.dumps, good + bad)), encoding="utf-8")
    batches = list(audio_noise_dataloader(section))
    assert all(len(batch) == batch.turns for batch in batches) and sum(len(batch.rejected) for batch in batches) == 25
    if seconds is None:  # what is batched with the short ones is short
        stood_in = [max(b.audio_len) for b in batches if b.rejected]
        assert batching["batch_size"] or max(stood_in) <= 0.5 * 16000


def test_unusable_noise_files_are_listed_too(dataset, tmp_path):
    ds = dataset()
    (tmp_path / "n0.wav").write_bytes(b"no audio")
    (tmp_path / "n1.wav").write_bytes(b"no audio")
    batch = ds.collate_fn([ds[0]])
    assert len(batch) == 1 and not batch.noise.any()
    assert [bad.reason for bad in batch.rejected].count("noise_unreadable") == 20


def test_broken_lines_of_all_manifests_are_listed_by_the_data_set(speech_and_noise, tmp_path):
    section = speech_and_noise(rir_manifest=str(tmp_path / "rooms.json"))
    section["augmentor"] = {"noise": {"manifest_path": str(tmp_path / "more.json"), "prob": 0.5}}
    for manifest in ("rooms.json", "more.json"):
        (tmp_path / manifest).write_text('{"audio_filepath": "n0.wav"}', encoding="utf-8")
    for manifest in ("speech.json", "noise.json", "rooms.json", "more.json"):
        with open(tmp_path / manifest, "a", encoding="utf-8") as file:
            file.write("\n{broken\n")
    lines = get_audio_noise_dataset_from_config(section).rejected_lines
    assert [(bad.reason, bad.line) for bad in lines] == [
        ("bad_entry", 7),
        ("noise_bad_entry", 3),
        ("rir_bad_entry", 2),
        ("noise_bad_entry", 2),
    ]


# ---------------------------------------------------------------------------------------------------- options


def test_talkers_of_the_manifest_are_all_other_utterances_and_skip_bad_ones(dataset, speech_and_noise):
    section = speech_and_noise(bad=(2,), shuffle=False)
    item = audio_noise_dataloader(section, training=False).dataset.dataset[1]
    assert [len(talker) for talker in item.talkers] == [4800, 8000, 8000, 9600, 11200]
    assert dataset()[1].talkers is None


@pytest.mark.parametrize("option", ["labels", "parser", "normalize", "return_sample_id"])
def test_the_constructor_refuses_by_name_what_would_have_no_effect(speech_and_noise, option):
    manifest = speech_and_noise()["manifest_filepath"]
    with pytest.raises(ValueError, match=f"AudioNoiseDataset.{option}='x' "):
        AudioNoiseDataset(manifest_filepath=manifest, sample_rate=16000, **{option: "x"})


def test_max_utts_keeps_the_first_utterances(speech_and_noise):
    manifest = speech_and_noise()["manifest_filepath"]
    options = {"manifest_filepath": manifest, "sample_rate": 16000, "min_duration": 0.25}
    assert [len(AudioNoiseDataset(**options, max_utts=n)) for n in (0, 2, 99)] == [5, 2, 5]
    assert AudioNoiseDataset(**options, max_utts=2).utterances[0].audio_filepath.endswith("s1.wav")


def test_real_speech_of_many_formats_collates(shared_data):
    manifests = shared_data / "manifests"
    ds = AudioNoiseDataset(
        noise_manifest=str(manifests / "noise_val.json"),
        manifest_filepath=str(manifests / "speech_val.json"),
        sample_rate=16000,
        max_duration=16.7,
    )
    batch = ds.collate_fn([ds[i] for i in range(0, len(ds), 4)])
    assert len(batch) == len(range(0, len(ds), 4)) and batch.rejected == ()
    assert torch.isfinite(batch.noisy_audio).all() and batch.noise.any(dim=1).all()
