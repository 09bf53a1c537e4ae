import gzip
import shutil
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

import models.targets  # noqa: F401 (registers what a batch_augmentor section may name)
from data.lhotse_dataset import LhotseAudioNoiseDataset
from data.lhotse_sampler import CutDraws
from data.loader import ResumableLoader
from utils.loaders import from_loaders, num_samples
from utils.training.rejects import Rejects

lhotse = pytest.importorskip("lhotse")

NUM_CUTS = 23
RATE = 16000
TALK = {
    "_target_": "nemo.collections.asr.modules.ssl_modules.MultiSpeakerNoiseAugmentation",
    "prob": 1.0,
    "noise_ratio": 0.5,
    "min_mix_rate": 0.5,
    "max_mix_rate": 0.5,
}


def same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(
        x.sample_id == y.sample_id and torch.equal(x.audio, y.audio) and torch.equal(x.noisy_audio, y.noisy_audio)
        for x, y in zip(a, b)
    )


# what a batch is


def test_batches_are_the_same_for_any_number_of_workers(cut_loader):
    options = {"batch_duration": 0.5, "num_buckets": 4, "batch_augmentor": TALK}
    alone, workers = cut_loader(**options), cut_loader(num_workers=2, **options)
    assert same(list(alone), list(workers)) and same(list(alone), list(workers))


def test_a_cut_draws_from_seed_epoch_and_its_id(cut_loader):
    def noises(loader: ResumableLoader) -> dict:
        batches = list(loader)
        return {n: x[:k] for b in batches for n, x, k in zip(b.sample_id, b.noise, b.audio_len)}

    by_two, by_five, other_seed = (
        cut_loader(batch_size=2),
        cut_loader(batch_size=5),
        cut_loader(batch_size=2, seed=1),
    )
    first, next_epoch = noises(by_two), noises(by_two)
    again, other = noises(by_five), noises(other_seed)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], next_epoch[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    seeds = [seed for batch in cut_loader(batch_size=2) for seed in batch.seeds.tolist()]
    assert len(seeds) == len(set(seeds)) == NUM_CUTS


def test_an_evaluation_mixes_each_cut_alike_in_any_batch(cut_loader):
    def mixtures(**batching) -> list[dict]:
        loader = cut_loader(training=False, batch_augmentor=TALK, **batching)
        batches = [list(loader), list(loader)]
        assert all(batch.talkers is None for batch in batches[0])
        return [
            {n: x[:k] for b in epoch for n, x, k in zip(b.sample_id, b.noisy_audio, b.audio_len)} for epoch in batches
        ]

    (once, again), (alone, _) = mixtures(batch_size=5), mixtures(batch_size=1)
    assert once.keys() == again.keys() == alone.keys() and len(once) == NUM_CUTS
    for name in once:
        assert torch.equal(once[name], again[name]) and torch.equal(once[name], alone[name])


def test_the_data_set_takes_cut_sets_as_nemos_does(cut_folder):
    cuts = lhotse.CutSet.from_file(cut_folder / "cuts.jsonl.gz").subset(first=3).to_eager()
    batch = LhotseAudioNoiseDataset(str(cut_folder / "noise.json"), TALK)[cuts]
    assert batch.audio_len.tolist() == [cut.num_samples for cut in cuts]
    assert torch.equal(batch.noisy_audio, batch.audio + batch.noise) and batch.noise.any()
    clean = LhotseAudioNoiseDataset()[cuts]
    assert torch.equal(clean.noisy_audio, clean.audio) and torch.equal(clean.audio, batch.audio)
    assert batch.turns == 3 and {"decode", "collate"} <= batch.seconds.keys()
    nothing = LhotseAudioNoiseDataset()[CutDraws(0, [])]
    assert len(nothing) == 0 and nothing.turns == 0


# what can't be used


def break_cut(kind: str, folder: Path) -> "lhotse.MonoCut":
    """A cut, over a copy of the folder's 0.wav, that can't be used for the reason `kind`."""
    path = folder / f"{kind}.wav"
    shutil.copy(folder / "0.wav", path)
    if kind in SAMPLES:
        soundfile.write(path, SAMPLES[kind], RATE, subtype="FLOAT")
    cut = lhotse.Recording.from_file(path).to_cut().with_id(kind)
    if kind == "unreadable":
        path.unlink()
    elif kind == "too_short":
        cut.duration = cut.recording.duration = 1.0
    elif kind == "bad_entry":
        cut.recording = None
    return cut


SAMPLES = {
    "silent": np.zeros(1600),
    "non_finite": np.full(1600, np.nan),
    "out_of_scale": np.tile([1e6, -1e6], 800),
}
REASONS = ["unreadable", "silent", "non_finite", "out_of_scale", "too_short", "bad_entry"]


def test_cuts_that_cannot_be_used_are_listed_and_others_of_their_batch_stand_in(cut_loader, cut_folder, tmp_path):
    good = list(lhotse.CutSet.from_file(cut_folder / "cuts.jsonl.gz"))[:4]
    shutil.copy(cut_folder / "0.wav", tmp_path)
    bad = [break_cut(kind, tmp_path) for kind in REASONS]
    lhotse.CutSet.from_cuts([*good[:2], *bad, *good[2:]]).to_file(tmp_path / "cuts.jsonl")
    batches = list(cut_loader(cuts_path=str(tmp_path / "cuts.jsonl"), batch_size=5, shuffle=False))
    first, second = ([cut.id for cut in pair] for pair in (good[:2], good[2:]))
    assert batches[0].sample_id[:2] == first and set(batches[0].sample_id[2:]) <= set(first)
    assert batches[1].sample_id[3:] == second and set(batches[1].sample_id[:3]) <= set(second)
    assert all(len(set(batch.seeds.tolist())) == batch.turns == 5 for batch in batches)
    rejected = [bad for batch in batches for bad in batch.rejected]
    assert [(bad.path, bad.reason, bad.line) for bad in rejected] == [
        (kind, kind, 3 + line) for line, kind in enumerate(REASONS)
    ]
    assert {bad.manifest for bad in rejected} == {str(tmp_path / "cuts.jsonl")}
    assert all(batch.noisy_audio.isfinite().all() for batch in batches)


def test_in_an_evaluation_what_stands_in_does_not_depend_on_the_batch(cut_loader, cut_folder, tmp_path):
    good = list(lhotse.CutSet.from_file(cut_folder / "cuts.jsonl.gz"))[:6]
    shutil.copy(cut_folder / "0.wav", tmp_path)
    bad = [break_cut(kind, tmp_path) for kind in REASONS[:3]]
    lhotse.CutSet.from_cuts([*good[:2], *bad, *good[2:]]).to_file(tmp_path / "cuts.jsonl")

    def items(batch_size: int) -> list[tuple]:
        options = {"batch_size": batch_size, "shuffle": False, "batch_augmentor": TALK}
        batches = list(cut_loader(training=False, cuts_path=str(tmp_path / "cuts.jsonl"), **options))
        assert [bad.reason for batch in batches for bad in batch.rejected] == REASONS[:3]
        return [
            (name, seed, noisy[:k].tolist())
            for b in batches
            for name, seed, noisy, k in zip(b.sample_id, b.seeds.tolist(), b.noisy_audio, b.audio_len)
        ]

    assert len(items(1)) == 9 and items(1) == items(4) == items(8)


def test_a_batch_without_usable_cuts_is_empty(cut_folder, tmp_path):
    shutil.copy(cut_folder / "0.wav", tmp_path)
    bad = [break_cut(kind, tmp_path) for kind in REASONS]
    batch = LhotseAudioNoiseDataset(batch_augmentor_cfg=TALK)[bad]
    assert len(batch) == 0 and batch.turns == len(batch.rejected) == len(REASONS)


def test_no_command_in_a_manifest_is_run(cut_folder, tmp_path):
    witness = tmp_path / "it_ran"
    recording = lhotse.Recording.from_file(cut_folder / "0.wav")
    recording.sources[0].type, recording.sources[0].source = "command", f"echo it ran > {witness}"
    cut = recording.to_cut().with_id("command")
    mixed = next(iter(lhotse.CutSet.from_file(cut_folder / "cuts.jsonl.gz"))).mix(cut)
    batch = LhotseAudioNoiseDataset()[[cut, mixed]]
    assert not witness.exists()
    assert [bad.reason for bad in batch.rejected] == ["bad_entry"] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception, match=r".*"):
            cut.load_audio()
    assert witness.exists()  # as lhotse would have


def test_cuts_that_a_shar_archive_lacks_are_listed(cut_loader, cut_folder, tmp_path):
    shutil.copytree(cut_folder / "shar", tmp_path / "shar")
    (tmp_path / "shar" / "recording.000001.tar").unlink()
    shutil.copy(tmp_path / "shar" / "recording.000000.tar", tmp_path / "shar" / "recording.000002.tar")
    batches = list(cut_loader(shar_path=str(tmp_path / "shar"), batch_size=4))
    rejected = [bad for batch in batches for bad in batch.rejected]
    assert Counter(bad.reason for bad in rejected) == {"unreadable": 12}
    assert len({name for batch in batches for name in batch.sample_id}) == NUM_CUTS - 12
    assert sum(batch.turns for batch in batches) == NUM_CUTS


def test_lines_that_are_no_cuts_are_with_the_loader(cut_loader, cut_folder, tmp_path):
    with gzip.open(cut_folder / "cuts.jsonl.gz", "rt") as lines:
        good = next(lines)
    (tmp_path / "cuts.jsonl").write_text(good[:40] + "\n" + good)
    loader = cut_loader(cuts_path=str(tmp_path / "cuts.jsonl"), batch_size=1)
    ((bad,),) = from_loaders(loader, "rejected_lines")
    assert (bad.reason, bad.line) == ("bad_entry", 1) and len(list(loader)) == 1
    assert from_loaders(loader, "max_rejected_share") == [0.5]


def test_a_loader_knows_how_many_cuts_it_has_so_that_the_share_of_bad_lines_is_judged(cut_loader):
    for training in (True, False):
        assert num_samples(cut_loader(training, batch_size=4)) == NUM_CUTS


def test_a_run_on_mostly_broken_cuts_stops(cut_loader, cut_folder, tmp_path):
    with gzip.open(cut_folder / "cuts.jsonl.gz", "rt") as lines:
        good = next(lines)
    (tmp_path / "cuts.jsonl").write_text(good[:40] + "\n" + good + good[:40])
    loader = cut_loader(cuts_path=str(tmp_path / "cuts.jsonl"), batch_size=1, max_rejected_share=0.6)
    trainer = Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[Rejects()])
    with pytest.raises(ValueError, match=r"left out 2 of 3 manifest lines: bad_entry.*max_rejected_share=0\.6"):
        trainer.fit(BoringModel(), loader)


# options


@pytest.mark.parametrize(
    "section, message",
    [
        ({"cuts_path": None}, "model.train_ds.use_lhotse=true reads one of cuts_path and shar_path"),
        ({"shar_path": "/nowhere"}, "model.train_ds.shar_path: '/nowhere' holds no cuts"),
        (
            {"max_duration": 0.01},
            "model.train_ds: no cut of .* is usable: 0 shorter .* 23 longer than max_duration",
        ),
        (
            {"drop_last": True, "ranks": 100},
            "model.train_ds: 23 utterances don't fill one batch .* 100 ranks",
        ),
    ],
)
def test_wrong_options_are_named(cut_loader, section, message):
    with pytest.raises(ValueError, match=message) as error:
        cut_loader(**{"batch_size": 4} | section)
    assert "\n" not in str(error.value)


def test_a_manifest_of_nemos_is_told_from_cuts(cut_loader, tmp_path):
    (tmp_path / "train.json").write_text('{"audio_filepath": "a.wav", "duration": 1.0}\n')
    said = r"no cut of .*train.json is usable: line 1 is no cut: .* a NeMo manifest goes into manifest_filepath"
    with pytest.raises(ValueError, match=said):
        cut_loader(cuts_path=str(tmp_path / "train.json"), batch_size=4)


def test_without_lhotse_one_line_says_how_to_install_it(cut_loader, monkeypatch):
    monkeypatch.setitem(sys.modules, "lhotse", None)
    with pytest.raises(ValueError, match=r"^model\.train_ds\.use_lhotse=true needs lhotse.* pip install lhotse$"):
        cut_loader(batch_size=4)
