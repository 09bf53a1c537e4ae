import errno
import json

import pytest

from utils.json_lines import append_line, read_lines


def test_an_entry_is_a_line(tmp_path):
    path = tmp_path / "new" / "list.jsonl"
    for number in range(3):
        append_line(path, {"number": number})
    assert path.read_text(encoding="utf-8").splitlines() == [f'{{"number": {i}}}' for i in range(3)]


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_line_that_was_cut_is_closed_and_spoils_no_other(tmp_path, cut):
    path = tmp_path / "list.jsonl"
    append_line(path, {"number": 0})
    append_line(path, {"number": 1})
    path.write_bytes(path.read_bytes()[:-cut])
    append_line(path, {"number": 2})
    numbers = [entry["number"] for entry in read_lines(path)]
    assert numbers == ([0, 1, 2] if cut == 1 else [0, 2])  # only the line's end was lost, or more


def test_an_empty_list_gets_no_empty_line(tmp_path):
    path = tmp_path / "list.jsonl"
    path.touch()
    append_line(path, {})
    assert path.read_bytes() == b"{}\n"


def test_any_text_is_listed(tmp_path):
    path = tmp_path / "list.jsonl"
    entry = {"path": "\ud800 \u2028 \n ü.wav"}
    append_line(path, entry)
    assert len(path.read_bytes().splitlines()) == 1
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [entry] == list(read_lines(path))


def test_a_list_that_cant_be_written_is_said_and_stops_nothing(tmp_path, monkeypatch, log):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("builtins.open", full)
    append_line(tmp_path / "list.jsonl", {})
    assert "list.jsonl isn't complete: No space left on device" in log.text
