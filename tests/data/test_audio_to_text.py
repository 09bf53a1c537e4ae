import json

import numpy as np
import pytest
import soundfile

from data.audio_to_text import ManifestDataset, expand_sharded_filepaths
from parts.preprocessing.manifest import read_manifests
from parts.preprocessing.manifest_paths import SHARD_STRATEGIES

RATE = 16000


@pytest.fixture
def manifest(tmp_path):
    """Three utterances of 0.1, 0.2 and 0.3 s, each a square wave of height 0.1, 0.2 or 0.3, and a broken line."""
    lines = []
    for number in (1, 2, 3):
        soundfile.write(tmp_path / f"{number}.wav", np.tile([number / 10, -number / 10], 800 * number), RATE)
        lines.append(json.dumps({"audio_filepath": f"{number}.wav", "duration": number / 10}))
    (tmp_path / "m.json").write_text("\n".join([*lines, "{"]), encoding="utf-8")
    return str(tmp_path / "m.json")


def test_utterances_within_the_bounds_are_decoded_by_index(manifest):
    dataset = ManifestDataset(manifest, RATE, min_duration=0.15)
    assert len(dataset) == 2 and dataset.durations.tolist() == [0.2, 0.3]
    assert [len(dataset.decode(i)) for i in range(2)] == [3200, 4800]
    assert np.allclose(np.abs(dataset.decode(1)), 0.3, atol=1e-4)


def test_broken_lines_are_there_to_be_reported(manifest):
    (bad,) = ManifestDataset(manifest, RATE).rejected_lines
    assert (bad.reason, bad.line) == ("bad_entry", 4)


def test_max_utts_keeps_the_first_ones(manifest):
    assert ManifestDataset(manifest, RATE, max_utts=2).durations.tolist() == [0.1, 0.2]


def test_a_table_stands_in_for_a_manifest_and_is_used_whole(manifest):
    table = read_manifests(manifest, "k").select(np.array([2, 0]))
    dataset = ManifestDataset(None, RATE, max_duration=0.2, utterances=table)
    assert [len(dataset.decode(i)) for i in range(2)] == [4800, 1600]


def test_a_pattern_names_several_manifests(manifest, tmp_path):
    (tmp_path / "m_0.json").write_text(json.dumps({"audio_filepath": "1.wav"}), encoding="utf-8")
    (tmp_path / "m_1.json").write_text(json.dumps({"audio_filepath": "3.wav"}), encoding="utf-8")
    dataset = ManifestDataset(str(tmp_path / "m__OP_0..1_CL_.json"), RATE)
    assert dataset.durations.tolist() == [0.1, 0.3] and dataset.utterances[1].duration is None


def test_scatter_gives_consecutive_equal_shares_and_says_what_it_leaves_out(log):
    shares = [expand_sharded_filepaths("a_{0..6}.tar", "scatter", 3, rank) for rank in range(3)]
    assert shares == [["a_0.tar", "a_1.tar"], ["a_2.tar", "a_3.tar"], ["a_4.tar", "a_5.tar"]]
    assert "7 shards over 3 ranks: the last 1 are not read" in log.text


def test_fewer_shards_than_ranks_leave_all_out():
    assert expand_sharded_filepaths(["a.tar"], "scatter", 2, 0) == []


@pytest.mark.parametrize("strategy", SHARD_STRATEGIES)
@pytest.mark.parametrize("world_size", [0, 1])
def test_one_rank_reads_all_and_replicate_gives_all_to_everyone(strategy, world_size):
    """NeMo's data sets say 0 ranks where there is one."""
    assert expand_sharded_filepaths("a_{0..2}.tar", strategy, world_size, 0) == ["a_0.tar", "a_1.tar", "a_2.tar"]
    assert expand_sharded_filepaths("a_{0..2}.tar", "replicate", 2, 1) == ["a_0.tar", "a_1.tar", "a_2.tar"]


def test_a_list_is_taken_as_it_is():
    assert expand_sharded_filepaths(("a_{0..2}.tar", "b.tar"), "replicate", 2, 0) == ["a_{0..2}.tar", "b.tar"]


def test_an_unknown_strategy_is_refused_by_name():
    with pytest.raises(ValueError, match="shard_strategy='shuffle' is not one of"):
        expand_sharded_filepaths("a.tar", "shuffle", 1, 0)
