import importlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from core.classes import register_targets
from data.samplers import Draw
from data.settings import DatasetSettings
from data.ssl_dataset import (
    AudioNoiseBatch,
    AudioNoiseDataset,
    AudioNoiseItem,
    audio_noise_dataloader,
    collate_audio_noise,
    get_audio_noise_dataset_from_config,
)
from modules.ssl_modules.augmentation import MultiSpeakerNoiseAugmentation

ROOT = Path(__file__).resolve().parents[2]


TALKERS = {
    "_target_": "nemo.collections.asr.modules.ssl_modules.MultiSpeakerNoiseAugmentation",
    "prob": 1.0,
    "noise_ratio": 0.3,
    "min_mix_rate": 0.5,
    "max_mix_rate": 0.5,
}


class HalfNoise:
    """Stands for a batch augmentor: its work is recognisable, and it can be pickled."""

    def __init__(self, share: float = 0.5):
        self.share = share

    def __call__(self, batch: AudioNoiseBatch) -> AudioNoiseBatch:
        noise = batch.noise * self.share
        mixed = {"noise": noise, "noisy_audio": batch.audio + noise, "noisy_audio_len": batch.audio_len}
        return replace(batch, **mixed, rejected=())


register_targets({"tests.data.HalfNoise": HalfNoise, TALKERS["_target_"]: MultiSpeakerNoiseAugmentation})


@pytest.fixture
def dataset(speech_and_noise):
    def make(bad=(), **section):
        return get_audio_noise_dataset_from_config(speech_and_noise(bad, **section))

    return make


def same(one: AudioNoiseItem, other: AudioNoiseItem) -> bool:
    return torch.equal(one.audio, other.audio) and torch.equal(one.noise, other.noise) and one.seed == other.seed


# ---------------------------------------------------------------------------------------------------- segment


def test_short_utterances_are_padded_to_the_least_length(dataset):
    lengths = [int(item.audio_len) for item in dataset(min_audio_len_secs=0.35)]
    assert lengths == [5600, 5600, 6400, 8000, 9600, 11200]


# ---------------------------------------------------------------------------------------------------- items


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


# ---------------------------------------------------------------------------------------------------- collate


def test_collate_pads_to_the_longest_and_adds_the_noise(dataset):
    ds = dataset()
    batch = ds.collate_fn([ds[1], ds[4]])
    assert batch.sample_id == ["1", "4"]
    assert batch.audio.shape == batch.noise.shape == batch.noisy_audio.shape == (2, 9600)
    assert batch.audio_len.tolist() == [4800, 9600] and torch.equal(batch.noisy_audio_len, batch.audio_len)
    assert torch.equal(batch.audio[0, :4800], ds[1].audio) and not batch.audio[0, 4800:].any()
    assert torch.equal(batch.noise[1], ds[4].noise) and not batch.noise[0, 4800:].any()
    assert torch.equal(batch.noisy_audio, batch.audio + batch.noise)
    assert batch.seeds.tolist() == [ds[1].seed, ds[4].seed] and batch.seeds.dtype == torch.int64


def test_a_noisy_utterance_is_as_long_as_the_clean_one_when_the_noise_is_shorter():
    item = AudioNoiseItem("0", torch.ones(4), torch.tensor(4), torch.ones(4), torch.tensor(2), seed=1)
    batch = collate_audio_noise([item])
    assert batch.noise_len.tolist() == [2] and batch.noisy_audio_len.tolist() == [4]


def test_noise_longer_than_the_batch_is_cut():
    item = AudioNoiseItem("0", torch.ones(4), torch.tensor(4), torch.ones(9), torch.tensor(9), seed=1)
    batch = collate_audio_noise([item])
    assert batch.noise.shape == (1, 4) and batch.noise_len.tolist() == [4]


def test_the_batch_augmentor_does_the_mixing(dataset):
    ds = dataset()
    items = [ds[0], ds[1]]
    plain, mixed = collate_audio_noise(items), collate_audio_noise(items, HalfNoise())
    assert torch.equal(mixed.noise, 0.5 * plain.noise)
    assert torch.equal(mixed.noisy_audio, plain.audio + 0.5 * plain.noise)


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


def test_a_batch_keeps_its_size_and_counts_turns_whatever_the_augmentor_returns(dataset):
    ds = dataset(bad=(1,))
    batch = collate_audio_noise([ds[0], ds[1], ds[Draw(0, None)], ds[2]], HalfNoise())
    assert len(batch) == batch.turns == 3 and batch.audio.shape[0] == 3
    assert [bad.reason for bad in batch.rejected] == ["unreadable"]


def test_where_nothing_can_be_used_the_batch_is_empty_and_skips_the_augmentor(dataset):
    ds = dataset(bad=range(6))
    batch = collate_audio_noise([ds[0], ds[1]], batch_augmentor=lambda batch: 1 / 0)
    assert len(batch) == 0 and batch.turns == 2
    assert [Path(bad.path).name for bad in batch.rejected] == ["s0.wav", "s1.wav"]
    assert batch.noisy_audio.shape == (0, 0) and batch.noisy_audio_len.shape == batch.seeds.shape == (0,)


def test_a_filler_is_nobodys_turn(dataset):
    batch = dataset().collate_fn([dataset()[Draw(0, None)]])
    assert len(batch) == batch.turns == len(batch.rejected) == 0


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


def test_a_batch_says_what_its_seconds_were_spent_on(dataset):
    ds = dataset()
    seconds = ds.collate_fn([ds[0], ds[1]]).seconds
    assert {"decode", "noise", "collate", "mix"} <= set(seconds) and min(seconds.values()) >= 0
    assert "decode" not in ds.collate_fn([]).seconds  # they are told once


def test_rooms_act_on_the_noisy_audio_alone(dataset, tmp_path):
    impulse = np.zeros(400)
    impulse[[0, 300]] = 1.0, 0.5
    soundfile.write(tmp_path / "room.wav", impulse, 16000)
    (tmp_path / "rooms.json").write_text('{"audio_filepath": "room.wav"}', encoding="utf-8")
    dry, wet = dataset(), dataset(rir_manifest=str(tmp_path / "rooms.json"), rir_prob=1.0)
    one, other = (ds.collate_fn([ds[1], ds[4]]) for ds in (dry, wet))
    assert torch.equal(one.audio, other.audio) and torch.equal(one.noise, other.noise)
    assert not torch.allclose(one.noisy_audio, other.noisy_audio)
    assert not other.noisy_audio[0, int(other.audio_len[0]) :].any()
    (tmp_path / "room.wav").write_bytes(b"no audio")
    lost = wet.collate_fn([wet[1]])
    assert torch.equal(lost.noisy_audio, dry.collate_fn([dry[1]]).noisy_audio)
    assert "rir_unreadable" in {bad.reason for bad in lost.rejected}


# ---------------------------------------------------------------------------------------------------- evaluation


@pytest.fixture
def evaluation(speech_and_noise):
    def samples(**section) -> dict[str, list]:
        section = speech_and_noise(shuffle=False, batch_augmentor=TALKERS) | section
        ranks = section.pop("ranks", 1)
        mixed = {}
        for rank in range(ranks):
            loader = audio_noise_dataloader(section, training=False, global_rank=rank, world_size=ranks)
            for batch in loader:
                for name, noisy, length in zip(batch.sample_id, batch.noisy_audio, batch.audio_len):
                    mixed[name] = noisy[:length].tolist()
        return mixed

    return samples


@pytest.mark.parametrize("other", [{"batch_size": 1}, {"batch_size": 4}, {"ranks": 2}, {"shuffle": True}])
def test_in_evaluation_a_sample_is_mixed_alike_in_any_batch(evaluation, other):
    assert evaluation(batch_size=6) == evaluation(**other)


def test_talkers_of_the_manifest_are_all_other_utterances_and_skip_bad_ones(dataset, speech_and_noise):
    section = speech_and_noise(bad=(2,), shuffle=False)
    item = audio_noise_dataloader(section, training=False).dataset.dataset[1]
    assert [len(talker) for talker in item.talkers] == [4800, 8000, 8000, 9600, 11200]
    assert dataset()[1].talkers is None


# ---------------------------------------------------------------------------------------------------- loader


def batches(loader: DataLoader, epoch: int = 0) -> list[AudioNoiseBatch]:
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_batches_are_the_same_for_any_number_of_workers(speech_and_noise):
    alone = audio_noise_dataloader(speech_and_noise(bad=(2,)))
    helped = audio_noise_dataloader(speech_and_noise(bad=(2,), num_workers=2))
    for epoch in range(2):  # the second epoch reaches workers that live on
        one, two = batches(alone, epoch), batches(helped, epoch)
        assert [b.sample_id for b in one] == [b.sample_id for b in two] and len(one) == 3
        assert all(torch.equal(a.noisy_audio, b.noisy_audio) and a.rejected == b.rejected for a, b in zip(one, two))


def test_a_loader_leaves_the_global_generators_alone(speech_and_noise):
    loader = audio_noise_dataloader(speech_and_noise())
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(loader)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_training_changes_with_the_epoch_and_evaluation_does_not(speech_and_noise):
    for training in (True, False):
        loader = audio_noise_dataloader(speech_and_noise(shuffle=False, batch_size=6), training=training)
        (first,), (second,) = batches(loader, 0), batches(loader, 1)
        assert torch.equal(first.noise, second.noise) is not training


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_an_epoch_and_make_equally_many_batches(speech_and_noise, world_size, drop_last):
    section = speech_and_noise(drop_last=drop_last, batch_size=1)
    ranks = [batches(audio_noise_dataloader(section, global_rank=r, world_size=world_size)) for r in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    seen = [name for rank in ranks for batch in rank for name in batch.sample_id]
    assert len(seen) == len(set(seen)) == (6 // world_size * world_size if drop_last else 6)


def test_drop_last_leaves_out_the_last_short_batch(speech_and_noise):
    assert [len(b) for b in audio_noise_dataloader(speech_and_noise(batch_size=4))] == [4, 2]
    assert [len(b) for b in audio_noise_dataloader(speech_and_noise(batch_size=4, drop_last=True))] == [4]


def test_too_few_utterances_for_one_batch_is_an_error_with_the_remedy(speech_and_noise):
    section = speech_and_noise(batch_size=4, drop_last=True)
    message = r"6 utterances don't fill one batch of batch_size=4 for each of 2 ranks; lower"
    with pytest.raises(ValueError, match=message):
        audio_noise_dataloader(section, world_size=2)


@pytest.mark.parametrize("manifest", [None, "???"])
def test_training_needs_a_manifest_and_evaluation_may_do_without(speech_and_noise, manifest):
    section = speech_and_noise(manifest_filepath=manifest)
    with pytest.raises(ValueError, match=r"model\.train_ds\.manifest_filepath is not set.*prepare_dummy_ssl_data"):
        audio_noise_dataloader(section)
    if manifest is None:
        assert audio_noise_dataloader(section, training=False, path="model.validation_ds") is None
        assert get_audio_noise_dataset_from_config(section, 0, 1) is None


# ---------------------------------------------------------------------------------------------------- options


def everything(section: dict) -> list:
    """All that a section decides about the batches of two epochs."""
    loader = audio_noise_dataloader(section)
    return [
        (batch.sample_id, batch.audio_len.tolist(), batch.noisy_audio.tolist(), batch.seeds.tolist())
        for epoch in range(2)
        for batch in batches(loader, epoch)
    ]


CHANGES = {
    "noise_manifest": None,
    "sample_rate": 8000,
    "batch_size": 3,
    "shuffle": False,
    "drop_last": True,
    "min_duration": 0.45,
    "max_duration": 0.55,
    "trim_silence": True,
    "int_values": True,
    "channel_selector": 1,
    "batch_augmentor": {"_target_": "tests.data.HalfNoise", "share": 0.25},
    "seed": 1,
    "min_audio_len_secs": 0.4,
    "pad_audio_mode": "zero",
    "normalize_db": -30.0,
    "augmentor": {"gain": {"prob": 1.0, "min_gain_dbfs": -6, "max_gain_dbfs": -6}},
    "batch_duration": 1.0,
}
CHANGE_NO_BATCH = {"manifest_filepath", "num_workers", "pin_memory"}  # speed alone, or tested above
TESTED_ELSEWHERE = {  # in tests of sections that have several corpora, tar files, rooms, cuts; of batching; of rejects
    "is_concat",
    "concat_sampling_technique",
    "concat_sampling_temperature",
    "concat_sampling_scale",
    "concat_sampling_probabilities",
    "concat_shuffle",
    "concat_sampling_seed",
    "is_tarred",
    "tarred_audio_filepaths",
    "tarred_shard_strategy",
    "shuffle_n",
    "bucketing_strategy",
    "bucketing_batch_size",
    "bucketing_weights",
    "num_buckets",
    "quadratic_duration",
    "rir_manifest",
    "rir_prob",
    "max_rejected_share",
    "use_lhotse",
    "cuts_path",
    "shar_path",
}


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_changes_the_batches(speech_and_noise, tmp_path, option):
    section = speech_and_noise(batch_size=4)
    rng = np.random.default_rng(1)
    stereo = rng.standard_normal((4800, 2)) * [2.0, 0.1]  # beyond full scale, with silence at the start
    stereo[:2400] = 0
    soundfile.write(tmp_path / "s1.wav", stereo, 16000, subtype="FLOAT")
    assert everything(section) == everything(section)
    assert everything(section | {option: CHANGES[option]}) != everything(section)


def test_the_options_above_are_all_there_are():
    assert set(CHANGES) | CHANGE_NO_BATCH | TESTED_ELSEWHERE == set(DatasetSettings.__dataclass_fields__)


def test_pin_memory_reaches_the_loader_where_there_is_cuda(speech_and_noise, monkeypatch):
    for has_cuda in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=has_cuda: answer)
        assert audio_noise_dataloader(speech_and_noise(pin_memory=True)).pin_memory is has_cuda
        assert audio_noise_dataloader(speech_and_noise(pin_memory=False)).pin_memory is False


def test_a_wrong_augmentor_option_is_named_with_its_path(speech_and_noise):
    section = speech_and_noise(batch_augmentor={"_target_": "tests.data.HalfNoise", "shares": 1})
    with pytest.raises(ValueError, match=r"model\.train_ds\.batch_augmentor\.shares .*did you mean 'share'"):
        audio_noise_dataloader(section)


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


# ---------------------------------------------------------------------------------------------------- real data


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


def test_golden_group_8_equals_nemo(golden, monkeypatch):
    monkeypatch.syspath_prepend(golden)
    check, cases_lib = importlib.import_module("check"), importlib.import_module("cases_lib")
    records = list(golden.glob("8_*/*.json"))
    for record in records:
        case, given, expected = check.load_case(str(golden), str(record))
        case["_root"] = str(golden)
        found, meta = cases_lib.run_case(cases_lib.Api(ROOT), case, given)
        result = check.Result()
        check.CHECKS.get(case["kind"], check.chk_default)(
            result, case, given, found, meta, expected, case["expected_meta"]
        )
        assert not result.fail, f"{record.name}: {result.fail}"
    assert len(records) >= 22
