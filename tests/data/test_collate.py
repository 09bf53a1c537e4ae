from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data.collate import build_batch_augmentor, collate_audio_noise
from data.samplers import Draw
from parts.batch_types import AudioNoiseItem
from tests.data.half_noise import HalfNoise


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


def test_a_wrong_augmentor_option_is_named_with_its_path():
    section = {"_target_": "tests.data.HalfNoise", "shares": 1}
    with pytest.raises(ValueError, match=r"model\.train_ds\.batch_augmentor\.shares .*did you mean 'share'"):
        build_batch_augmentor(section, "model.train_ds.batch_augmentor")
    assert build_batch_augmentor(None, "model.train_ds.batch_augmentor") is None
