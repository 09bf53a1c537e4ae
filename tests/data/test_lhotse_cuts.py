import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data.lhotse_cuts import CutLines, load_cut, shar_manifests
from parts.preprocessing.segment import BadAudio

lhotse = pytest.importorskip("lhotse")
from lhotse.audio.backend import audio_backend  # noqa: E402

RATE = 16000


@pytest.fixture
def three_cuts(tmp_path) -> Path:
    """Manifest of three cuts of 0.1 s."""
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(1600), RATE)
    cut = lhotse.Recording.from_file(tmp_path / "a.wav").to_cut()
    path = tmp_path / "three.jsonl.gz"
    lhotse.CutSet.from_cuts([cut.with_id(name) for name in "abc"]).to_file(path)
    return path


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


def test_shar_archives_hold_what_lhotse_reads_from_them(stereo, tmp_path):
    (tmp_path / "shar").mkdir()
    cuts = make_cuts(stereo) | {"both": stereo.to_cut().with_id("both")}
    plain = lhotse.CutSet.from_cuts([cuts[name].with_id(f"a/{name}.x") for name in ("part", "resampled", "both")])
    plain.to_shar(tmp_path / "shar", fields={"recording": "wav"}, shard_size=2)
    theirs = list(lhotse.CutSet.from_shar(in_dir=tmp_path / "shar"))
    ours = list(CutLines(shar_manifests(str(tmp_path / "shar"), "model.train_ds.shar_path")))
    for cut, other in zip(ours, theirs, strict=True):
        assert cut.id == other.id
        with audio_backend("LibsndfileBackend"):  # others import torchaudio, which may not load
            wanted = other.load_audio().mean(0)
        assert np.allclose(load_cut(cut, cut.sampling_rate), wanted, atol=1e-6)


def test_a_mixture_in_memory_is_rendered_without_torchaudio(stereo, tmp_path, monkeypatch):
    def broken() -> bool:
        raise OSError("libc10_cuda.so")

    wav = (tmp_path / "in_memory.wav").as_posix()
    soundfile.write(wav, 0.1 * np.random.default_rng(0).standard_normal(RATE), RATE)
    with audio_backend("LibsndfileBackend"):
        recording = lhotse.Recording.from_bytes(Path(wav).read_bytes(), "in_memory")
    mixed = recording.to_cut().mix(recording.to_cut().truncate(duration=0.3), snr=3)
    monkeypatch.setattr("lhotse.audio.backend.torchaudio_ffmpeg_backend_available", broken)
    assert len(load_cut(mixed, RATE)) == RATE


def test_lines_that_are_no_cuts_are_listed(three_cuts, tmp_path):
    with gzip.open(three_cuts, "rt") as lines:
        good = [line.strip() for line in lines]
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


def test_a_manifest_that_breaks_off_is_read_up_to_there(three_cuts, tmp_path):
    whole = three_cuts.read_bytes()
    cut_off, no_gzip = tmp_path / "cut_off.jsonl.gz", tmp_path / "no_gzip.jsonl.gz"
    cut_off.write_bytes(whole[: len(whole) * 2 // 3])
    no_gzip.write_bytes(b"no gzip")
    lines = CutLines([str(cut_off), str(no_gzip), str(three_cuts)])
    assert 3 <= len(list(lines)) < 6
    assert sorted(bad.manifest for bad in lines.rejected.values()) == [str(cut_off), str(no_gzip)]
