import json

import pytest

from parts.batch_types import BadSample
from utils.training.rejects_list import RejectsList, entry_of, log_reject

BAD = BadSample("a.wav", "unreadable", "not audio", "train.json", 3)


def open_list(folder, rank=0):
    found = RejectsList(folder)
    found.open(rank, folder)
    return found


def listed(folder, name="rejects.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def test_an_entry_is_one_json_line_with_these_keys_in_this_order(tmp_path):
    open_list(tmp_path).take(BAD)
    text = '{"manifest": "train.json", "line": 3, "path": "a.wav", "reason": "unreadable", "detail": "not audio"}\n'
    assert (tmp_path / "rejects.jsonl").read_text(encoding="utf-8") == text == json.dumps(entry_of(BAD)) + "\n"


def test_an_entry_is_in_the_file_as_soon_as_it_is_taken(tmp_path):
    found = open_list(tmp_path)
    sizes = []
    for line in range(3):
        found.take(BAD._replace(line=line))
        sizes.append(len(listed(tmp_path)))
    assert sizes == [1, 2, 3]


def test_a_list_that_was_cut_goes_on_in_a_new_line(tmp_path):
    (tmp_path / "rejects.jsonl").write_bytes(b'{"manifest": "train.js')
    open_list(tmp_path).take(BAD)
    cut, whole = (tmp_path / "rejects.jsonl").read_bytes().splitlines()
    assert cut == b'{"manifest": "train.js' and json.loads(whole)["path"] == "a.wav"


@pytest.mark.parametrize("path", ["静か.wav", "two\nlines.wav", "caf\udce9.wav"])
def test_any_file_name_is_listed_as_it_is(tmp_path, path):
    open_list(tmp_path).take(BAD._replace(path=path))
    (entry,) = listed(tmp_path)
    assert entry["path"] == path
    assert path != "静か.wav" or path in (tmp_path / "rejects.jsonl").read_text(encoding="utf-8")


def test_other_ranks_write_a_list_of_their_own(tmp_path):
    open_list(tmp_path, rank=2).take(BAD)
    assert listed(tmp_path, "rejects_rank2.jsonl") == [BAD._asdict()]
    assert not (tmp_path / "rejects.jsonl").exists()


@pytest.mark.parametrize("blocked", ["the folder", "the file"])
def test_a_list_that_cant_be_written_is_said_once_and_stops_nothing(tmp_path, caplog, blocked):
    folder = tmp_path / "run"
    if blocked == "the folder":
        folder.write_text("no folder", encoding="utf-8")
    found = open_list(folder)
    if blocked == "the file":
        (folder / "rejects.jsonl").mkdir(parents=True)
    for line in range(3):
        found.take(BAD._replace(line=line))
    said = [text for text in caplog.messages if text.startswith(f"{folder / 'rejects.jsonl'} isn't complete: ")]
    assert said and len(said) == len({*said}) and all("the log has all" in text for text in said)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (BadSample("b.wav", "empty", "no samples", "t.json", 1), "left out: b.wav: empty (no samples), t.json:1"),
        (BadSample("", "bad_entry", "no JSON", "t.json", 7), "left out: t.json:7: bad_entry (no JSON)"),
        (BadSample("c.wav", "silent", "peak 0"), "left out: c.wav: silent (peak 0)"),
        (
            BadSample("n.wav", "noise_empty", "x", "n.json", 1),
            "noise left out: n.wav: noise_empty (x), n.json:1",
        ),
        (BadSample("r.wav", "rir_empty", "x"), "impulse response left out: r.wav: rir_empty (x)"),
    ],
)
def test_a_sample_is_named_by_its_path_and_its_place_and_said_once(caplog, bad, text):
    log_reject(bad)
    log_reject(bad)
    assert caplog.messages == [text]


def test_a_rank_that_learns_its_folder_late_lists_there(tmp_path):
    found = RejectsList(tmp_path / "without the version that rank zero made up")
    found.open(1, tmp_path / "version_0")
    found.take(BAD)
    assert [path.name for path in tmp_path.rglob("*.jsonl")] == ["rejects_rank1.jsonl"]
    assert listed(tmp_path / "version_0", "rejects_rank1.jsonl") and str(tmp_path / "version_0") in str(found)
