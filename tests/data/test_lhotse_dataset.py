import gzip
import json
import shutil
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import models.targets  # noqa: F401 (registers what a batch_augmentor section may name)
from data.lhotse_cuts import CutLines, load_cut, shar_manifests
from data.lhotse_dataset import LhotseAudioNoiseDataset, lhotse_loader
from data.lhotse_sampler import CutDraws
from data.loader import ResumableLoader
from data.settings import DatasetSettings
from parts.preprocessing.segment import BadAudio

lhotse = pytest.importorskip("lhotse")

RATE = 16000
NUM_CUTS = 23
SAMPLERS = {"fixed": {"batch_size": 2}, "buckets": {"batch_duration": 0.5, "num_buckets": 4}}
BOTH_SAMPLERS = pytest.mark.parametrize("batching", SAMPLERS.values(), ids=SAMPLERS)
TALK = {
    "_target_": "nemo.collections.asr.modules.ssl_modules.MultiSpeakerNoiseAugmentation",
    "prob": 1.0,
    "noise_ratio": 0.5,
    "min_mix_rate": 0.5,
    "max_mix_rate": 0.5,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """cuts.jsonl.gz over 23 files of 0.05 to 0.25 s, the same as Shar archives of 6 in shar/, and noise.json."""
    folder = tmp_path_factory.mktemp("lhotse")
    rng = np.random.default_rng(0)
    recordings = []
    for i in range(NUM_CUTS):
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


def make_loader(folder: Path, training: bool = True, rank: int = 0, ranks: int = 1, **section) -> ResumableLoader:
    section = {"cuts_path": str(folder / "cuts.jsonl.gz")} | section if "shar_path" not in section else section
    section = {"sample_rate": RATE, "shuffle": True, "min_audio_len_secs": 0.0, "use_lhotse": True} | section
    if "noise_manifest" not in section:
        section["noise_manifest"] = str(folder / "noise.json")
    settings = DatasetSettings.from_config(section, "model.train_ds")
    return lhotse_loader(settings, "model.train_ds", training=training, global_rank=rank, world_size=ranks)


def ids(batches) -> list[list[str]]:
    return [list(batch.sample_id) for batch in batches]


def same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(
        x.sample_id == y.sample_id and torch.equal(x.audio, y.audio) and torch.equal(x.noisy_audio, y.noisy_audio)
        for x, y in zip(a, b)
    )


# which cuts come when


@BOTH_SAMPLERS
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("source", ["cuts", "shar"])
def test_ranks_share_an_epoch_in_equally_many_batches(folder, batching, ranks, source):
    where = {"shar_path": str(folder / "shar")} if source == "shar" else {}
    shares = [ids(make_loader(folder, rank=r, ranks=ranks, **batching, **where)) for r in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    counts = Counter(name for share in shares for batch in share for name in batch)
    assert len(counts) == NUM_CUTS and set(counts.values()) == {1}


@BOTH_SAMPLERS
def test_several_passes_show_each_cut_as_often(folder, batching):
    loader = make_loader(folder, **batching)
    shown, passes = Counter(), []
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)
        passes.append(ids(loader))
        shown.update(name for batch in passes[-1] for name in batch)
    assert {len(batches) for batches in passes} == {len(loader)}
    assert max(shown.values()) - min(shown.values()) <= 1  # lhotse's epochs need not be equally many batches
    assert passes[0] != passes[1]
    assert passes[0] == ids(make_loader(folder, **batching))


def test_a_run_that_begins_in_a_later_epoch_begins_with_its_order(folder):
    loader, other = make_loader(folder, batch_size=4), make_loader(folder, batch_size=4)
    first = ids(loader)
    loader.sampler.set_epoch(1)
    other.sampler.set_epoch(1)
    assert ids(other) == ids(loader) != first


@pytest.mark.parametrize("ranks", [2, 3])
def test_drop_last_leaves_out_what_is_no_batch_for_every_rank(folder, ranks):
    loaders = [make_loader(folder, rank=r, ranks=ranks, batch_size=4, drop_last=True) for r in range(ranks)]
    assert [len(loader) for loader in loaders] == [5 // ranks] * ranks
    shares = [ids(loader) + ids(loader) for loader in loaders]
    assert [len(share) for share in shares] == [5 // ranks * 2] * ranks
    assert {len(batch) for share in shares for batch in share} == {4}


def test_batches_are_of_similar_lengths_and_about_batch_duration(folder):
    loader = make_loader(folder, batch_duration=0.5, num_buckets=4)
    plain = make_loader(folder, batch_duration=0.5, num_buckets=1)
    for batch in loader:
        assert len(batch) * batch.audio.shape[1] < 1.2 * 0.5 * RATE  # lhotse stops once another like them is too much
    assert 0 < loader.sampler.padding < 0.6 * plain.sampler.padding


def test_durations_are_bounded(folder):
    names = ids(make_loader(folder, batch_size=1, min_duration=0.1, max_duration=0.15, shuffle=False))
    lengths = [800 + 150 * int(name[0].split(".")[-1]) for name in names]
    assert lengths == [n for n in (800 + 150 * i for i in range(NUM_CUTS)) if 0.1 * RATE <= n <= 0.15 * RATE]


# going on


@BOTH_SAMPLERS
@pytest.mark.parametrize("source", ["cuts", "shar"])
def test_a_run_that_is_interrupted_goes_on_with_the_next_batch(folder, batching, source):
    where = {"shar_path": str(folder / "shar")} if source == "shar" else {}
    whole = make_loader(folder, **batching, **where)
    batches = list(whole) + list(whole)
    for done in (0, 1, 4, len(whole) - 1):
        first = make_loader(folder, **batching, **where)
        passing = iter(first)
        for _ in range(done):
            next(passing)
        state = json.loads(json.dumps(first.state_dict()), object_hook=with_numbers)
        second = make_loader(folder, **batching, **where)
        second.load_state_dict(state)
        assert same(list(second) + list(second), batches[done:]), done


def with_numbers(entry: dict) -> dict:
    """JSON has no numbers as keys, which lhotse's state has."""
    return {int(key) if key.isdigit() else key: value for key, value in entry.items()}


def test_what_workers_read_ahead_is_read_again(folder):
    loader = make_loader(folder, batch_size=2, num_workers=2)
    passing = iter(loader)
    seen = ids([next(passing), next(passing), next(passing)])
    state = loader.state_dict()
    del passing
    plain = ids(make_loader(folder, batch_size=2))
    assert seen == plain[:3]
    other = make_loader(folder, batch_size=2, num_workers=2)
    other.load_state_dict(state)
    assert seen + ids(other) == plain
    assert seen + ids(loader)[: len(loader) - 3] == plain  # nor is it lost to a pass that was left early


@BOTH_SAMPLERS
@pytest.mark.parametrize("before, after", [(1, 3), (2, 1), (3, 2)])
def test_with_other_ranks_the_rest_of_the_epoch_comes_once(folder, batching, before, after):
    seen, states = [], []
    for rank in range(before):
        loader = make_loader(folder, rank=rank, ranks=before, **batching)
        passing = iter(loader)
        seen += [name for _ in range(2) for name in next(passing).sample_id]
        states.append(loader.state_dict()["now"])
    assert all(state == states[0] for state in states)
    shares = []
    for rank in range(after):
        loader = make_loader(folder, rank=rank, ranks=after, **batching)
        loader.load_state_dict({"now": states[0]})
        standing = loader.standing()
        shares.append(ids(loader))
        assert standing.batches_done == len(loader) - len(shares[-1]) and loader.standing().is_finished
    assert len({len(share) for share in shares}) == 1
    counts = Counter(seen + [name for share in shares for batch in share for name in batch])
    assert len(counts) == NUM_CUTS and set(counts.values()) == {1}


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch_size": 3}, {"max_duration": 0.2}])
def test_a_state_of_other_cuts_is_refused_with_a_warning(folder, change, caplog):
    loader = make_loader(folder, batch_size=2)
    next(iter(loader))
    section = {"batch_size": 2} | change
    other = make_loader(folder, **section)
    other.load_state_dict(loader.state_dict())
    (name,) = change
    assert "the cuts aren't what they were" in caplog.text
    assert (name if name != "max_duration" else "cuts was 23, is") in caplog.text
    assert same(list(other), list(make_loader(folder, **section)))


# what a batch is


def test_batches_are_the_same_for_any_number_of_workers(folder):
    options = {"batch_duration": 0.5, "num_buckets": 4, "batch_augmentor": TALK}
    alone, workers = make_loader(folder, **options), make_loader(folder, num_workers=2, **options)
    assert same(list(alone), list(workers)) and same(list(alone), list(workers))


def test_a_cut_draws_from_seed_epoch_and_its_id(folder):
    def noises(loader: ResumableLoader) -> dict:
        batches = list(loader)
        return {n: x[:k] for b in batches for n, x, k in zip(b.sample_id, b.noise, b.audio_len)}

    by_two, by_five, other_seed = (
        make_loader(folder, batch_size=2),
        make_loader(folder, batch_size=5),
        make_loader(folder, batch_size=2, seed=1),
    )
    first, next_epoch = noises(by_two), noises(by_two)
    again, other = noises(by_five), noises(other_seed)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], next_epoch[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    seeds = [seed for batch in make_loader(folder, batch_size=2) for seed in batch.seeds.tolist()]
    assert len(seeds) == len(set(seeds)) == NUM_CUTS


def test_an_evaluation_mixes_each_cut_alike_in_any_batch(folder):
    def mixtures(**batching) -> list[dict]:
        loader = make_loader(folder, training=False, batch_augmentor=TALK, **batching)
        batches = [list(loader), list(loader)]
        assert all(batch.talkers is None for batch in batches[0])
        return [
            {n: x[:k] for b in epoch for n, x, k in zip(b.sample_id, b.noisy_audio, b.audio_len)} for epoch in batches
        ]

    (once, again), (alone, _) = mixtures(batch_size=5), mixtures(batch_size=1)
    assert once.keys() == again.keys() == alone.keys() and len(once) == NUM_CUTS
    for name in once:
        assert torch.equal(once[name], again[name]) and torch.equal(once[name], alone[name])


def test_the_data_set_takes_cut_sets_as_nemos_does(folder):
    cuts = lhotse.CutSet.from_file(folder / "cuts.jsonl.gz").subset(first=3).to_eager()
    batch = LhotseAudioNoiseDataset(str(folder / "noise.json"), TALK)[cuts]
    assert batch.audio_len.tolist() == [cut.num_samples for cut in cuts]
    assert torch.equal(batch.noisy_audio, batch.audio + batch.noise) and batch.noise.any()
    clean = LhotseAudioNoiseDataset()[cuts]
    assert torch.equal(clean.noisy_audio, clean.audio) and torch.equal(clean.audio, batch.audio)
    assert batch.turns == 3 and {"decode", "collate"} <= batch.seconds.keys()
    nothing = LhotseAudioNoiseDataset()[CutDraws(0, [])]
    assert len(nothing) == 0 and nothing.turns == 0


# audio


@pytest.fixture(scope="module")
def stereo(tmp_path_factory) -> "lhotse.Recording":
    path = tmp_path_factory.mktemp("stereo") / "stereo.wav"
    soundfile.write(path, 0.2 * np.random.default_rng(0).standard_normal((RATE, 2)), RATE)
    return lhotse.Recording.from_file(path)


def make_cuts(stereo) -> dict:
    part = lhotse.MonoCut(id="part", start=0.25013, duration=0.5, channel=1, recording=stereo)
    return {
        "whole": lhotse.MonoCut(id="whole", start=0, duration=1.0, channel=0, recording=stereo),
        "part": part,
        "odd": lhotse.MonoCut(id="odd", start=4000.5 / RATE, duration=8000.6 / RATE, channel=0, recording=stereo),
        "resampled": part.resample(8000),
        "faster": part.perturb_speed(1.1),
        "mixed": part.mix(part.truncate(duration=0.3), snr=3),
        "padded": part.pad(duration=0.8),
    }


@pytest.mark.parametrize("kind", ["whole", "part", "odd", "resampled", "faster", "mixed", "padded"])
def test_audio_is_what_lhotse_loads(stereo, kind):
    cut = make_cuts(stereo)[kind]
    wanted = cut.load_audio()[0]
    assert np.allclose(load_cut(cut, cut.sampling_rate, channel_selector=3), wanted, atol=1e-6)  # it has one channel
    assert len(load_cut(cut, RATE)) == pytest.approx(cut.duration * RATE, abs=1)


@pytest.mark.parametrize(
    "selector, wanted", [(None, [0, 1]), ("average", [0, 1]), (1, [1]), ([0], [0]), ([1, 0], [0, 1])]
)
def test_channels_of_a_cut_are_selected_as_those_of_a_file(stereo, selector, wanted):
    cut = stereo.to_cut()
    assert np.allclose(load_cut(cut, RATE, channel_selector=selector), cut.load_audio()[wanted].mean(0), atol=1e-6)
    one = lhotse.MultiCut(id="right", start=0, duration=1.0, channel=[1], recording=stereo)
    assert np.allclose(load_cut(one, RATE, channel_selector=selector), cut.load_audio()[1], atol=1e-6)
    with pytest.raises(BadAudio, match="channel_selector=2 asks for more than 2 channels"):
        load_cut(cut, RATE, channel_selector=2)


def test_shar_archives_hold_what_lhotse_reads_from_them(folder, stereo, tmp_path):
    (tmp_path / "shar").mkdir()
    cuts = make_cuts(stereo) | {"both": stereo.to_cut().with_id("both")}
    plain = lhotse.CutSet.from_cuts([cuts[name].with_id(f"a/{name}.x") for name in ("part", "resampled", "both")])
    plain.to_shar(tmp_path / "shar", fields={"recording": "wav"}, shard_size=2)
    theirs = list(lhotse.CutSet.from_shar(in_dir=tmp_path / "shar"))
    ours = list(CutLines(shar_manifests(str(tmp_path / "shar"), "model.train_ds.shar_path")))
    for cut, other in zip(ours, theirs, strict=True):
        assert cut.id == other.id
        assert np.allclose(load_cut(cut, cut.sampling_rate), other.load_audio().mean(0), atol=1e-6)


# what can't be used


def break_cut(kind: str, good, folder: Path):
    """A cut that can't be used, for the reason `kind`."""
    samples = {
        "silent": np.zeros(1600),
        "non_finite": np.full(1600, np.nan),
        "out_of_scale": np.tile([1e6, -1e6], 800),
    }
    path = folder / f"{kind}.wav"
    if kind in samples:
        soundfile.write(path, samples[kind], RATE, subtype="FLOAT")
    else:
        shutil.copy(folder / "0.wav", path)
    cut = lhotse.Recording.from_file(path).to_cut().with_id(kind)
    if kind == "unreadable":
        path.unlink()
    elif kind == "too_short":
        cut.duration = cut.recording.duration = 1.0
    elif kind == "bad_entry":
        cut.recording = None
    return cut


REASONS = ["unreadable", "silent", "non_finite", "out_of_scale", "too_short", "bad_entry"]


def test_cuts_that_cannot_be_used_are_left_out_and_listed(folder, tmp_path):
    good = list(lhotse.CutSet.from_file(folder / "cuts.jsonl.gz"))[:4]
    shutil.copy(folder / "0.wav", tmp_path)
    bad = [break_cut(kind, good[0], tmp_path) for kind in REASONS]
    lhotse.CutSet.from_cuts([*good[:2], *bad, *good[2:]]).to_file(tmp_path / "cuts.jsonl")
    batches = list(make_loader(folder, cuts_path=str(tmp_path / "cuts.jsonl"), batch_size=5, shuffle=False))
    assert [name for batch in batches for name in batch.sample_id] == [cut.id for cut in good]
    assert [batch.turns for batch in batches] == [5, 5]
    rejected = [bad for batch in batches for bad in batch.rejected]
    assert [(bad.path, bad.reason, bad.line) for bad in rejected] == [
        (kind, kind, 3 + line) for line, kind in enumerate(REASONS)
    ]
    assert {bad.manifest for bad in rejected} == {str(tmp_path / "cuts.jsonl")}
    assert all(batch.noisy_audio.isfinite().all() for batch in batches)


def test_a_batch_without_usable_cuts_is_empty(folder, tmp_path):
    shutil.copy(folder / "0.wav", tmp_path)
    bad = [break_cut(kind, None, tmp_path) for kind in REASONS]
    batch = LhotseAudioNoiseDataset(batch_augmentor_cfg=TALK)[bad]
    assert len(batch) == 0 and batch.turns == len(batch.rejected) == len(REASONS)


def test_no_command_in_a_manifest_is_run(folder, tmp_path):
    witness = tmp_path / "it_ran"
    recording = lhotse.Recording.from_file(folder / "0.wav")
    recording.sources[0].type, recording.sources[0].source = "command", f"touch {witness}"
    cut = recording.to_cut().with_id("command")
    mixed = next(iter(lhotse.CutSet.from_file(folder / "cuts.jsonl.gz"))).mix(cut)
    batch = LhotseAudioNoiseDataset()[[cut, mixed]]
    assert not witness.exists()
    assert [bad.reason for bad in batch.rejected] == ["bad_entry"] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception, match=r".*"):
            cut.load_audio()
    assert witness.exists()  # as lhotse would have


def test_lines_that_are_no_cuts_are_listed(folder, tmp_path):
    with gzip.open(folder / "cuts.jsonl.gz", "rt") as lines:
        good = [line.strip() for line in lines][:3]
    entry = json.loads(good[0])
    bad = [
        good[0][:40],
        "[1, 2]",
        "null",
        json.dumps(entry["recording"]),
        json.dumps(entry | {"duration": -1}),
        json.dumps(entry | {"duration": "long"}),
        json.dumps(entry | {"duration": float("nan")}),
        json.dumps(entry | {"start": -0.5}),
        json.dumps(entry | {"type": "Sculpture"}),
        json.dumps({key: value for key, value in entry.items() if key != "id"}),
    ]
    path = tmp_path / "cuts.jsonl"
    path.write_text("\n".join([good[0], "", *bad, good[1]]), encoding="utf-8-sig")
    lines = CutLines([str(path)])
    assert [cut.id for cut in lines] == [json.loads(good[0])["id"], json.loads(good[1])["id"]] == [c.id for c in lines]
    listed = list(lines.rejected.values())
    assert [(entry.manifest, entry.line, entry.reason) for entry in listed] == [
        (str(path), 3 + i, "bad_entry") for i in range(len(bad))
    ]
    loader = make_loader(folder, cuts_path=str(path), batch_size=1)
    assert loader.rejected_lines == tuple(listed) and len(list(loader)) == 2


def test_a_manifest_that_breaks_off_is_read_up_to_there(folder, tmp_path):
    whole = (folder / "cuts.jsonl.gz").read_bytes()
    cut_off, no_gzip = tmp_path / "cut_off.jsonl.gz", tmp_path / "no_gzip.jsonl.gz"
    cut_off.write_bytes(whole[: len(whole) * 2 // 3])
    no_gzip.write_bytes(b"no gzip")
    lines = CutLines([str(cut_off), str(no_gzip), str(folder / "cuts.jsonl.gz")])
    assert NUM_CUTS < len(list(lines)) < 2 * NUM_CUTS
    assert sorted(bad.manifest for bad in lines.rejected.values()) == [str(cut_off), str(no_gzip)]


def test_cuts_that_a_shar_archive_lacks_are_left_out(folder, tmp_path):
    shutil.copytree(folder / "shar", tmp_path / "shar")
    (tmp_path / "shar" / "recording.000001.tar").unlink()
    shutil.copy(tmp_path / "shar" / "recording.000000.tar", tmp_path / "shar" / "recording.000002.tar")
    batches = list(make_loader(folder, shar_path=str(tmp_path / "shar"), batch_size=4))
    rejected = [bad for batch in batches for bad in batch.rejected]
    assert Counter(bad.reason for bad in rejected) == {"unreadable": 12}
    assert sum(len(batch) for batch in batches) == NUM_CUTS - 12


# options


@pytest.mark.parametrize(
    "section, message",
    [
        ({"cuts_path": None}, "model.train_ds.use_lhotse=true reads one of cuts_path and shar_path"),
        ({"manifest_filepath": "a.json"}, "model.train_ds.manifest_filepath='a.json' isn't read with use_lhotse=true"),
        ({"is_concat": True}, "model.train_ds.is_concat=True isn't read with use_lhotse=true"),
        ({"bucketing_weights": [1]}, "model.train_ds.bucketing_weights=.* isn't read with use_lhotse=true"),
        ({"shar_path": "/nowhere"}, "model.train_ds.shar_path: '/nowhere' holds no cuts"),
        ({"max_duration": 0.01}, "model.train_ds: no cut of .* is usable"),
        ({"drop_last": True, "ranks": 100}, "model.train_ds: .* batches of cuts are too few for 100 ranks"),
    ],
)
def test_wrong_options_are_named(folder, section, message):
    with pytest.raises(ValueError, match=message) as error:
        make_loader(folder, **{"batch_size": 4} | section)
    assert "\n" not in str(error.value)


def test_without_lhotse_one_line_says_how_to_install_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "lhotse", None)
    with pytest.raises(ValueError, match=r"^model\.train_ds\.use_lhotse=true needs lhotse.* pip install lhotse$"):
        make_loader(folder, batch_size=4)
