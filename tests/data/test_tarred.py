import io
import itertools
import json
import multiprocessing
import os
import pickle

import numpy as np
import pytest
import soundfile

import data.tarred
from data.tarred import TarTable, drawn_through_buffer, nemo_order, tar_table
from parts.preprocessing.audio_file import BadAudio
from parts.preprocessing.segment import load_audio
from tests.data.tar_files import RATE, wav_bytes, write_lines, write_shards, write_tar


def table_of(folder, tars: dict[str, dict[str, bytes]], lines: list[dict], **bounds) -> TarTable:
    for name, members in tars.items():
        write_tar(folder / name, members)
    manifest = write_lines(folder / "m.json", lines)
    return tar_table([str(folder / name) for name in tars], str(manifest), "train", **bounds)


def names(table: TarTable) -> list[str]:
    return [table.name(index) for index in range(len(table))]


def audio(table: TarTable, index: int) -> np.ndarray:
    entry = table[index]
    return load_audio(table.open(index), RATE, offset=entry.offset, duration=entry.duration)


def test_each_sample_is_read_as_from_a_plain_file_in_any_order(tmp_path):
    table = tar_table(*write_shards(tmp_path), "train")
    assert names(table) == [f"u{number}.wav" for number in range(6)]
    for index in (5, 0, 3, 1, 4, 2, 5):
        assert table.open(index).read() == wav_bytes(index)
        assert np.array_equal(audio(table, index), soundfile.read(io.BytesIO(wav_bytes(index)), dtype="float32")[0])


def test_an_utterance_is_named_by_tar_and_member(tmp_path):
    table = tar_table(*write_shards(tmp_path), "train")
    assert table[3].audio_filepath == os.path.join(str(tmp_path), "audio_1.tar") + "/u3.wav"
    assert (table[3].duration, table[3].line) == (0.2, 4)
    assert table.durations.tolist() == [0.2] * 6


def test_rows_can_be_selected_and_stay_a_tar_table(tmp_path):
    table = tar_table(*write_shards(tmp_path), "train").select(np.array([4, 1]))
    assert names(table) == ["u4.wav", "u1.wav"]
    assert [table.open(index).read() for index in range(2)] == [wav_bytes(4), wav_bytes(1)]


def read_in_worker(table: TarTable) -> bytes:
    return table.open(4).read()


def test_a_table_can_be_pickled(tmp_path):
    table = tar_table(*write_shards(tmp_path), "train")
    assert read_in_worker(pickle.loads(pickle.dumps(table))) == wav_bytes(4)


@pytest.mark.slow
def test_a_table_works_in_a_spawned_process(tmp_path):
    table = tar_table(*write_shards(tmp_path), "train")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(read_in_worker, (table,)) == wav_bytes(4)


def test_several_lines_of_one_member_have_their_own_offsets(tmp_path):
    lines = [{"audio_filepath": "a.wav", "duration": 0.1, "offset": offset} for offset in (0.0, 0.1)]
    table = table_of(tmp_path, {"audio_0.tar": {"a.wav": wav_bytes(0)}}, lines)
    whole = load_audio(io.BytesIO(wav_bytes(0)), RATE)
    assert np.array_equal(audio(table, 0), whole[:1600])
    assert np.array_equal(audio(table, 1), whole[1600:])


@pytest.mark.parametrize(
    ("listed", "member"),
    [
        ("a.wav", "a.wav"),
        ("a.wav", "folder/a.flac"),  # NeMo's script may have converted the audio
        ("folder/a.wav", "a.wav"),
        ("folder\\a.wav", "a.wav"),
        ("a-sub2.wav", "a.wav"),
        ("a-sub2.wav", "a-sub2.wav"),
        ("a.b.wav", "a.b.wav"),
        ("a", "a"),
    ],
)
def test_a_line_belongs_to_the_member_of_its_name(tmp_path, listed, member):
    table = table_of(tmp_path, {"audio_0.tar": {"x.wav": b"", member: b"y"}}, [{"audio_filepath": listed}])
    assert table.open(0).read() == b"y"


def test_equal_names_in_two_shards_are_told_apart_by_shard_id(tmp_path):
    tars = {f"audio_{shard}.tar": {"a.wav": wav_bytes(shard)} for shard in (0, 1)}
    lines = [{"audio_filepath": "a.wav", "duration": 0.2, "shard_id": shard} for shard in (1, 0, 1)]
    table = table_of(tmp_path, tars, [*lines, {"audio_filepath": "a.wav"}])
    assert table.shards.tolist() == [1, 0, 1, 0]


def test_labels_beside_the_audio_are_not_taken_for_it(tmp_path):
    table = table_of(tmp_path, {"audio_0.tar": {"a.json": b"{}", "a.wav": b"x"}}, [{"audio_filepath": "a.wav"}])
    assert table.open(0).read() == b"x"


def test_lines_without_a_member_are_rejected_and_members_without_a_line_left_out(tmp_path):
    tars = {"audio_0.tar": {"a.wav": wav_bytes(0), "b.wav": wav_bytes(1)}}
    table = table_of(tmp_path, tars, [{"audio_filepath": "c.wav"}, {"audio_filepath": "b.wav", "duration": 0.2}, {}])
    assert names(table) == ["b.wav"]
    assert sorted((bad.path, bad.reason, bad.line) for bad in table.rejected) == [
        ("", "bad_entry", 3),
        ("c.wav", "bad_entry", 1),
    ]


def in_shards(*names_of_shards: str) -> dict:
    return {name: {f"{name}{n}.wav": wav_bytes(n) for n in (0, 1)} for name in names_of_shards}


def lines_in(tars: dict) -> list[dict]:
    """Lines of 0.1 s, 0.2 s and so on; the shards are numbered in their order."""
    places = [(name, shard) for shard, members in enumerate(tars.values()) for name in members]
    return [
        {"audio_filepath": name, "duration": 0.1 * number, "shard_id": shard}
        for number, (name, shard) in enumerate(places, 1)
    ]


@pytest.mark.parametrize("tar_names", [("audio_0.tar", "audio_1.tar", "audio_2.tar"), ("a.tar", "b.tar", "c.tar")])
@pytest.mark.parametrize("given", [(2, 0), (1,), (0, 1, 2)])
def test_lines_of_shards_that_arent_given_are_no_rejects(tmp_path, tar_names, given):
    tars = in_shards(*tar_names)
    lines = lines_in(tars)
    table = table_of(tmp_path, {tar_names[shard]: tars[tar_names[shard]] for shard in given}, lines)
    assert names(table) == [line["audio_filepath"] for line in lines if line["shard_id"] in given]
    assert not table.rejected


def test_lines_of_shards_that_arent_given_are_counted(tmp_path, caplog):
    _, manifest = write_shards(tmp_path)
    tar_table(str(tmp_path / "audio_1.tar"), manifest, "a.section")
    assert "a.section: 4 of 6 lines are left out: their shards aren't given" in caplog.messages


def test_a_line_without_a_member_of_a_given_shard_is_a_reject_although_others_arent_given(tmp_path):
    tars = in_shards("audio_0.tar", "audio_1.tar", "audio_2.tar")
    lines = lines_in(tars)
    del tars["audio_1.tar"], tars["audio_0.tar"]["audio_0.tar1.wav"]
    tars["audio_2.tar"] = {}
    table = table_of(tmp_path, tars, lines)
    assert names(table) == ["audio_0.tar0.wav"]
    assert [bad.line for bad in table.rejected] == [2, 5, 6]


def test_lines_that_say_nothing_of_a_shard_need_a_member(tmp_path):
    lines = [{"audio_filepath": "a.wav"}, {"audio_filepath": "b.wav"}, {"audio_filepath": "c.wav", "shard_id": [1]}]
    table = table_of(tmp_path, {"audio_0.tar": {"a.wav": wav_bytes(0)}}, lines)
    assert [bad.line for bad in table.rejected] == [2, 3]


@pytest.mark.parametrize(
    ("bounds", "ids", "num_ids"),
    [({}, [0, 1, 4, 5], 6), ({"min_duration": 0.15}, [0, 3, 4], 5), ({"max_duration": 0.55}, [0, 1, 4], 5)],
)
def test_nemos_ids_count_all_lines_within_the_bounds(tmp_path, bounds, ids, num_ids):
    tars = in_shards("audio_0.tar", "audio_1.tar", "audio_2.tar")
    lines = lines_in(tars)
    del tars["audio_1.tar"]
    table = table_of(tmp_path, tars, lines, **bounds)
    assert (table.nemo_ids.tolist(), table.num_nemo_ids) == (ids, num_ids)
    assert table.select(np.array([2, 0])).nemo_ids.tolist() == [ids[2], ids[0]]


def test_a_tar_that_is_cut_off_gives_what_it_has(tmp_path):
    pattern, manifest = write_shards(tmp_path, shards=2, per_shard=4)
    with open(tmp_path / "audio_1.tar", "r+b") as tar:
        tar.truncate(10_000)
    table = tar_table(pattern, manifest, "train")
    assert names(table) == ["u0.wav", "u1.wav", "u2.wav", "u3.wav", "u4.wav"]
    assert table.open(4).read() == wav_bytes(4)
    assert {bad.path: bad.detail for bad in table.rejected} == {
        "u5.wav": "the tar file ends inside this member",
        "u6.wav": "the tar files have no member of this name",
        "u7.wav": "the tar files have no member of this name",
    }


def test_a_tar_that_disappears_makes_its_samples_unreadable(tmp_path):
    table = tar_table(*write_shards(tmp_path), "train")
    os.remove(tmp_path / "audio_1.tar")
    assert table.open(0).read() == wav_bytes(0)
    with pytest.raises(BadAudio) as error:
        table.open(2)
    assert error.value.reason == "unreadable"


def test_durations_are_bounded_and_read_from_the_audio_where_missing(tmp_path):
    tars = {"audio_0.tar": {f"{number}.wav": wav_bytes(number, 0.1 * number) for number in range(1, 5)}}
    lines = [{"audio_filepath": f"{number}.wav"} for number in range(1, 5)]
    table = table_of(tmp_path, tars, lines, min_duration=0.15, max_duration=0.35)
    assert names(table) == ["2.wav", "3.wav"]
    assert table.durations == pytest.approx([0.2, 0.3])


def test_sharded_manifests_are_manifests(tmp_path):
    pattern, manifest = write_shards(tmp_path)
    whole = tar_table(pattern, manifest, "train")
    (tmp_path / "sharded_manifests").mkdir()
    with open(manifest) as lines:
        entries = [json.loads(line) for line in lines]
    for shard in range(3):
        mine = [entry for entry in entries if entry["shard_id"] == shard]
        write_lines(tmp_path / "sharded_manifests" / f"manifest_{shard}.json", mine)
    sharded = tar_table(pattern, str(tmp_path / "sharded_manifests/manifest__OP_0..2_CL_.json"), "train")
    assert (names(sharded), sharded.shards.tolist()) == (names(whole), whole.shards.tolist())


def test_tars_of_another_data_set_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"train.tarred_audio_filepaths: none of 1 manifest lines"):
        table_of(tmp_path, {"audio_0.tar": {"a.wav": b"x"}}, [{"audio_filepath": "b.wav"}])


def test_what_is_no_tar_is_refused_if_it_is_all(tmp_path):
    (tmp_path / "audio_0.tar").write_bytes(b"<html>")
    manifest = write_lines(tmp_path / "m.json", [{"audio_filepath": "a.wav"}])
    with pytest.raises(ValueError, match=r"train.tarred_audio_filepaths: none of 1"):
        tar_table(str(tmp_path / "audio_0.tar"), str(manifest), "train")


def test_a_tar_that_is_not_there_is_named(tmp_path):
    _, manifest = write_shards(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train.tarred_audio_filepaths.*audio_9.tar"):
        tar_table(str(tmp_path / "audio_9.tar"), manifest, "train")


# NeMo's order


def test_scattered_shards_reach_one_rank_and_worker_once_and_whole(tmp_path):
    table = tar_table(*write_shards(tmp_path, shards=8), "train")
    for world_size, num_workers, shuffle_n in itertools.product((1, 2, 3, 4), (1, 2, 3), (0, 1, 2, 100)):
        rows = [
            nemo_order(table, "scatter", world_size, rank, worker, num_workers, shuffle_n, np.random.default_rng(rank))
            for rank in range(world_size)
            for worker in range(num_workers)
        ]
        read = 2 * world_size * (8 // world_size)  # NeMo leaves out the shards that don't divide
        assert sorted(np.concatenate(rows)) == list(range(read))
        assert all(part[1::2].tolist() == (part[::2] + 1).tolist() for part in rows)


def test_replicated_shards_reach_every_rank(tmp_path):
    table = tar_table(*write_shards(tmp_path), "train")
    for rank in range(2):
        assert nemo_order(table, "replicate", 2, rank).tolist() == list(range(6))


def test_rows_come_in_the_order_of_the_tar_and_then_of_the_manifest(tmp_path):
    lines = [{"audio_filepath": name, "duration": 0.1} for name in ("b.wav", "a.wav", "b.wav")]
    table = table_of(tmp_path, {"audio_0.tar": {"a.wav": wav_bytes(0), "b.wav": wav_bytes(1)}}, lines)
    assert nemo_order(table).tolist() == [1, 0, 2]


def test_shards_are_shuffled_by_the_generator():
    orders = {tuple(drawn_through_buffer(range(6), 6, np.random.default_rng(seed))) for seed in range(20)}
    assert len(orders) > 10
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert list(drawn_through_buffer(range(6), 0, np.random.default_rng(0))) == list(range(6))


def test_two_shards_come_in_for_one_that_goes_out_until_enough_are_gathered(monkeypatch):
    monkeypatch.setattr(data.tarred, "FIRST_BUFFER", 4)
    orders = [[*drawn_through_buffer(range(20), 8, np.random.default_rng(seed))] for seed in range(500)]
    come_in = [1 + max(order[place] for order in orders) for place in range(7)]
    assert come_in == [4, 6, 8, 10, 12, 13, 14]


def test_an_unknown_strategy_is_refused(tmp_path):
    table = tar_table(*write_shards(tmp_path), "train")
    with pytest.raises(ValueError, match="shard_strategy='spread'"):
        nemo_order(table, "spread")
