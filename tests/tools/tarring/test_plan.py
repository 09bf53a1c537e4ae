import json
from pathlib import Path

import pytest

from parts.preprocessing.manifest import read_table
from parts.preprocessing.utterances import UtteranceTable
from tools.tarring.plan import Names, plan_shards


@pytest.fixture
def table(tmp_path: Path) -> UtteranceTable:
    """Six files with two lines each."""
    entries = [
        {"audio_filepath": f"{name}.wav", "duration": 1.0 + 0.1 * number, "offset": 2.0 * number}
        for number in range(2)
        for name in "abcdef"
    ]
    (tmp_path / "m.json").write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return read_table([str(tmp_path / "m.json")])


def test_names_are_one_word_and_no_two_alike():
    names = Names()
    new = [names.new(path, (None, None), None) for path in ("a/x.y.WAV", "a_x_y.wav", "../a/x.y.flac", "noext")]
    assert new == ["a_x_y.wav", "a_x_y_2.wav", "a_x_y_3.flac", "noext.wav"]
    assert names.new("z.wav", (0.5, None), "flac") == "z_0_5.flac"


@pytest.mark.parametrize("together", [True, False])
def test_files_are_kept_together_where_asked_for(table, together):
    shards = plan_shards(table, 3, shuffle=True, shuffle_seed=0, keep_files_together=together)
    assert [len(shard.lines) for shard in shards] == [4, 4, 4]
    assert all(len(shard.members) == 2 for shard in shards) == together
    lines = sorted((line["audio_filepath"][0], line["offset"]) for shard in shards for line in shard.lines)
    assert lines == [(name, offset) for name in "abcdef" for offset in (0.0, 2.0)]


def test_what_does_not_divide_goes_to_the_first_shards_or_is_left_out(table):
    assert [len(shard.lines) for shard in plan_shards(table, 5)] == [3, 3, 2, 2, 2]
    assert [len(shard.lines) for shard in plan_shards(table, 5, equal_shards=True)] == [2, 2, 2, 2, 2]


def test_a_piece_is_a_member_of_its_own(table):
    (whole,), (cut,) = plan_shards(table, 1), plan_shards(table, 1, slice_with_offset=True)
    assert (len(whole.members), len(cut.members)) == (6, 12)
    assert (cut.members[6].offset, cut.members[6].duration, cut.members[6].line) == (2.0, 1.1, 7)
    assert cut.lines[6]["source_audio_offset"] == 2.0 and "offset" not in cut.lines[6]
