import io
import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import tools.tarring.shards
from data.ssl_dataset import audio_noise_dataloader
from data.tar_index import tar_index
from data.tarred import TarTable, tar_table
from parts.preprocessing.segment import load_audio
from tools.make_tarred_dataset import main

RATE = 16000


def noise(seed: int, seconds: float) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


@pytest.fixture
def source(tmp_path) -> Path:
    """Manifest of seven files, two of them of one name in two folders, and one with two lines."""
    folder = tmp_path / "source"
    lines = []
    names = ["a/x.wav", "b/x.wav", "b/y.with.dots.flac", "z.wav", "a_x.wav", "u.ogg", "v.wav"]
    for number, name in enumerate(names):
        seconds = 0.5 + 0.1 * number
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, noise(number, seconds), RATE)
        lines.append({"audio_filepath": name, "duration": round(seconds, 1), "speaker": f"s{number}"})
    lines.append({"audio_filepath": "z.wav", "duration": 0.2, "offset": 0.3, "speaker": "s3"})
    manifest = folder / "train.json"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return manifest


def run(source: Path, target: Path, *options: str) -> int:
    return main(["--manifest_path", str(source), "--target_dir", str(target), "--workers", "2", *options])


def read(target: Path, shards: int, manifest: str = "tarred_audio_manifest.json") -> TarTable:
    return tar_table(str(target / f"audio__OP_0..{shards - 1}_CL_.tar"), str(target / manifest), "train")


def audio_of(table: TarTable) -> dict[tuple, bytes]:
    """Samples by speaker and offset."""
    found = {}
    for index, entry in enumerate(table):
        with open(entry.manifest, encoding="utf-8") as lines:
            line = json.loads(list(lines)[entry.line - 1])
        samples = load_audio(table.open(index), RATE, offset=entry.offset, duration=entry.duration)
        found[line["speaker"], line.get("offset", line.get("source_audio_offset", 0))] = samples.tobytes()
    return found


def audio_of_source(manifest: Path) -> dict[tuple, bytes]:
    found = {}
    for line in map(json.loads, manifest.read_text().splitlines()):
        offset = line.get("offset", 0)
        path = manifest.parent / line["audio_filepath"]
        samples = load_audio(path, RATE, offset=offset, duration=line["duration"])
        found[line["speaker"], offset] = samples.tobytes()
    return found


@pytest.mark.parametrize("options", [[], ["--shuffle", "--shuffle_seed", "1"], ["--sort_in_shards"]])
@pytest.mark.parametrize("shards", [1, 3])
def test_every_utterance_is_read_back_as_from_its_file(source, tmp_path, options, shards):
    assert run(source, tmp_path / "out", "--num_shards", str(shards), *options) == 0
    assert audio_of(read(tmp_path / "out", shards)) == audio_of_source(source)


def test_shard_manifests_hold_the_lines_of_the_whole_one(source, tmp_path):
    run(source, tmp_path / "out", "--num_shards", "3")
    whole = (tmp_path / "out" / "tarred_audio_manifest.json").read_text()
    parts = [(tmp_path / f"out/sharded_manifests/manifest_{shard}.json").read_text() for shard in range(3)]
    assert "".join(parts) == whole
    for shard, part in enumerate(parts):
        lines = [json.loads(line) for line in part.splitlines()]
        assert {line["shard_id"] for line in lines} == {shard}
        names = tar_index(str(tmp_path / f"out/audio_{shard}.tar")).names
        assert {line["audio_filepath"] for line in lines} == set(names)
        assert all(name.count(".") == 1 and "/" not in name for name in names)
    assert [len(part.splitlines()) for part in parts] == [3, 3, 2]
    assert audio_of(read(tmp_path / "out", 3, "sharded_manifests/manifest__OP_0..2_CL_.json")) == audio_of_source(
        source
    )


def test_no_two_files_have_one_name_in_all_shards(source, tmp_path):
    run(source, tmp_path / "out", "--num_shards", "2")
    names = [name for shard in range(2) for name in tar_index(str(tmp_path / f"out/audio_{shard}.tar")).names]
    assert len(names) == len(set(names)) == 8  # z.wav is in both shards, under two names
    assert {"a_x.wav", "a_x_2.wav", "b_x.wav", "b_y_with_dots.flac"} < set(names)


def test_equal_shards_leave_out_what_does_not_divide(source, tmp_path):
    run(source, tmp_path / "out", "--num_shards", "3", "--equal_shards")
    sizes = np.bincount(read(tmp_path / "out", 3).shards)
    assert sizes.tolist() == [2, 2, 2]
    metadata = OmegaConf.load(tmp_path / "out" / "metadata.yaml")
    assert (metadata.num_samples_per_shard, metadata.dataset_config.num_shards) == (2, 3)


def test_the_same_arguments_give_the_same_tars(source, tmp_path):
    for name in ("one", "two"):
        run(source, tmp_path / name, "--num_shards", "2", "--shuffle", "--shuffle_seed", "3")
    for shard in range(2):
        one, two = (tmp_path / name / f"audio_{shard}.tar" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("codec", ["flac", "wav"])
def test_a_lossless_codec_keeps_every_sample(source, tmp_path, codec):
    lossy = next(source.parent.glob("u.ogg"))
    loud = np.clip(9 * noise(99, 1.0), -1, 1)  # where a way through floats would round
    soundfile.write(lossy.with_suffix(".wav"), loud, RATE, subtype="PCM_24")
    source.write_text(source.read_text().replace("u.ogg", "u.wav"))
    run(source, tmp_path / "out", "--num_shards", "2", "--force_codec", codec)
    table = read(tmp_path / "out", 2)
    assert {Path(table.name(index)).suffix for index in range(len(table))} == {f".{codec}"}
    assert audio_of(table) == audio_of_source(source)


def test_opus_keeps_the_lengths(source, tmp_path):
    run(source, tmp_path / "out", "--num_shards", "2", "--force_codec", "opus")
    expected = {key: len(samples) for key, samples in audio_of_source(source).items()}
    assert {key: len(samples) for key, samples in audio_of(read(tmp_path / "out", 2)).items()} == expected


def test_slices_hold_only_their_piece(source, tmp_path):
    run(source, tmp_path / "out", "--num_shards", "1", "--slice_with_offset")
    table = read(tmp_path / "out", 1)
    (piece,) = [index for index in range(8) if table.durations[index] == 0.2]
    assert table.name(piece) == "z_0_3_0_2.wav"
    assert soundfile.info(io.BytesIO(table.open(piece).read())).frames == 3200
    exact, expected = audio_of(table), audio_of_source(source)
    assert {key for key in expected if exact[key] != expected[key]} <= {("s5", 0)}  # the OGG file is encoded again


def test_buckets_divide_the_durations(source, tmp_path):
    bounds = ("--min_duration", "0.5", "--max_duration", "1.1")
    assert run(source, tmp_path / "out", "--num_shards", "1", "--buckets_num", "2", *bounds) == 0
    durations = [sorted(read(tmp_path / "out" / f"bucket{number}", 1).durations) for number in (1, 2)]
    assert durations == [[0.5, 0.6, 0.7], [0.8, 0.9, 1.0, 1.1]]


@pytest.mark.parametrize("buckets", [1, 2])
def test_the_command_that_is_printed_reads_all_that_was_written(source, tmp_path, capsys, buckets):
    bounds = ("--min_duration", "0.5", "--max_duration", "1.1")
    run(source, tmp_path / "out", "--num_shards", "2", "--buckets_num", str(buckets), *bounds)
    overrides = shlex.split(capsys.readouterr().out.partition("Train on it with")[2])
    keys = {one.get_key_element(): one.value() for one in OverridesParser.create().parse_overrides(overrides)}
    section = {key.removeprefix("model.train_ds."): value for key, value in keys.items()}
    assert len(section) == 3
    loader = audio_noise_dataloader(section | {"sample_rate": RATE, "shuffle": False, "batch_size": 1})
    assert len(loader) == 7


def test_what_cannot_be_written_ends_with_2_and_one_line(source, tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        run(source, tmp_path / "file" / "out", "--num_shards", "1")
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_a_second_run_goes_on_where_the_first_stopped(source, tmp_path, monkeypatch):
    target, written = tmp_path / "out", []
    options = ("--num_shards", "4", "--workers", "1")
    content_of = tools.tarring.shards.content_of

    def fails_at_the_sixth(member, codec):
        written.append(member.name)
        if len(written) == 6:
            raise MemoryError
        return content_of(member, codec)

    monkeypatch.setattr(tools.tarring.shards, "content_of", fails_at_the_sixth)
    with pytest.raises(MemoryError):
        run(source, target, *options)
    finished = sorted(path.name for path in target.glob("audio_?.tar"))
    assert {"audio_0.tar", "audio_1.tar"} <= set(finished)
    assert "audio_2.tar" not in finished
    assert not (target / "tarred_audio_manifest.json").exists()
    times = {name: os.stat(target / name).st_mtime_ns for name in finished}
    monkeypatch.undo()
    assert run(source, target, *options) == 0
    assert {name: os.stat(target / name).st_mtime_ns for name in finished} == times
    assert audio_of(read(target, 4)) == audio_of_source(source)
    assert not list(target.rglob("*.part"))


def test_a_finished_set_is_not_written_again_unless_it_would_differ(source, tmp_path, capsys):
    run(source, tmp_path / "out", "--num_shards", "2")
    run(source, tmp_path / "out", "--num_shards", "2")
    assert "2 of them were there already" in capsys.readouterr().out
    soundfile.write(source.parent / "a" / "x.wav", noise(99, 0.6), RATE)
    run(source, tmp_path / "out", "--num_shards", "2")
    assert "1 of them were there already" in capsys.readouterr().out
    assert audio_of(read(tmp_path / "out", 2)) == audio_of_source(source)


def test_a_tar_that_reads_back_wrong_is_no_shard(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tools.tarring.shards, "add", lambda tar, name, content: None)
    with pytest.raises(SystemExit) as stop:
        run(source, tmp_path / "out", "--num_shards", "1")
    assert stop.value.code == 2 and "audio_0.tar.part doesn't read back" in capsys.readouterr().err
    assert not (tmp_path / "out" / "audio_0.tar").exists()


def test_what_cannot_be_packed_is_listed_and_the_rest_packed(source, tmp_path):
    (source.parent / "v.wav").unlink()
    (source.parent / "a_x.wav").write_bytes(b"no audio")
    soundfile.write(source.parent / "z.wav", np.full(9000, np.nan), RATE, subtype="FLOAT")  # FLAC would make it finite
    assert run(source, tmp_path / "out", "--num_shards", "2", "--force_codec", "flac") == 1
    with open(tmp_path / "out" / "rejects.jsonl", encoding="utf-8") as lines:
        entries = [json.loads(line) for line in lines]
    assert all(list(entry) == ["manifest", "line", "path", "reason", "detail"] for entry in entries)
    rejected = {os.path.basename(bad["path"]): (bad["reason"], bad["line"]) for bad in entries}
    assert rejected == {"v.wav": ("unreadable", 7), "a_x.wav": ("unreadable", 5), "z.wav": ("non_finite", 4)}
    kept = audio_of(read(tmp_path / "out", 2))
    assert sorted(speaker for speaker, _ in kept) == ["s0", "s1", "s2", "s5"]


@pytest.mark.parametrize("change", [["--num_shards", "2"], ["--num_shards", "3", "--force_codec", "flac"]])
def test_shards_of_another_data_set_are_replaced_only_when_forced(source, tmp_path, capsys, change):
    out = tmp_path / "out"
    run(source, out, "--num_shards", "3")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stop:
        run(source, out, *change)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "--force" in said
    assert "num_shards was 3, is 2" in said or "force_codec was None, is flac" in said
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert run(source, out, *change, "--force") == 0
    shards = int(change[1])
    assert len(list(out.glob("*.tar"))) == len(list(out.glob("sharded_manifests/*"))) == shards
    assert len(list(out.glob("*.index.json"))) == shards and len(read(out, shards)) == 8


def test_shards_of_another_manifest_or_in_fewer_buckets_are_refused_too(source, tmp_path):
    bounds = ("--num_shards", "1", "--min_duration", "0.5", "--max_duration", "1.1")
    run(source, tmp_path / "out", *bounds, "--buckets_num", "2")
    other = source.with_name("other.json")
    other.write_bytes(source.read_bytes())
    for manifest, buckets in ((source, "1"), (other, "2")):
        with pytest.raises(SystemExit):
            run(manifest, tmp_path / "out", *bounds, "--buckets_num", buckets)
    assert run(source, tmp_path / "out", *bounds, "--force") == 0
    assert not list(tmp_path.glob("out/bucket*/*.tar"))


def test_a_manifest_of_which_nothing_is_there_says_so(source, tmp_path, capsys):
    for path in [*source.parent.rglob("*.wav"), *source.parent.rglob("*.flac"), *source.parent.rglob("*.ogg")]:
        path.unlink()
    with pytest.raises(SystemExit) as stop:
        run(source, tmp_path / "out", "--num_shards", "2")
    assert stop.value.code == 2
    assert "none of 8 lines" in (said := capsys.readouterr().err) and "no such file" in said
    assert len((tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()) == 8


def test_a_name_that_no_file_can_have_is_listed(source, tmp_path):
    with open(source, "a", encoding="utf-8") as lines:
        lines.write('{"audio_filepath": "\\ud800.wav", "duration": 1.0}\n')
    assert run(source, tmp_path / "out", "--num_shards", "2") == 1
    (bad,) = map(json.loads, (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8").splitlines())
    assert (bad["line"], bad["reason"]) == (9, "unreadable")


def test_a_dry_run_writes_nothing(source, tmp_path, capsys):
    assert run(source, tmp_path / "out", "--num_shards", "3", "--dry_run") == 0
    assert "8 utterances in 3 shards of 2 to 3" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_shards", "0"], "--num_shards=0 is below 1"),
        (["--num_shards", "9"], "8 utterances don't fill --num_shards=9"),
        (["--num_shards", "1", "--buckets_num", "2"], "--buckets_num needs --min_duration"),
        (["--num_shards", "1", "--shuffle_seed", "2"], "no effect without --shuffle"),
        (["--num_shards", "1", "--min_duration", "9"], "no utterance is left"),
        (["--num_shards", "1", "--workers", "0"], "--workers=0"),
    ],
)
def test_wrong_arguments_are_refused_by_name(source, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as error:
        run(source, tmp_path / "out", *options)
    assert error.value.code == 2 and message in capsys.readouterr().err
