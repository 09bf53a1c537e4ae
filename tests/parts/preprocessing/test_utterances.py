import copy
import json
import os
import pickle
import shutil

import numpy as np
import pytest
import soundfile

from parts.batch_types import BadSample
from parts.preprocessing.manifest import read_manifests
from parts.preprocessing.utterances import Utterance, UtteranceTable

KEY = "model.train_ds.manifest_filepath"


@pytest.fixture
def listed(tmp_path):
    """Writes a manifest of these file names beside wavs/a.wav and gives its table."""
    (tmp_path / "wavs").mkdir()
    soundfile.write(tmp_path / "wavs" / "a.wav", np.zeros(8000), 16000)

    def write(*names: str, manifest: str = "m.json") -> UtteranceTable:
        lines = [json.dumps({"audio_filepath": name, "duration": 1 + i}) for i, name in enumerate(names)]
        (tmp_path / manifest).parent.mkdir(exist_ok=True)
        (tmp_path / manifest).write_text("\n".join(lines), encoding="utf-8")
        return read_manifests(str(tmp_path / manifest), KEY)

    return write


def same(one: UtteranceTable, two: UtteranceTable) -> bool:
    return list(one) == list(two) and one.rejected == two.rejected and one.manifests == two.manifests


@pytest.fixture
def table() -> UtteranceTable:
    rows = [
        Utterance(f"/d/{i}" + "é" * i, None if i == 2 else 1.0 + i, i / 2, f"{i % 2}.json", i + 1) for i in range(5)
    ]
    made = UtteranceTable.of(rows)
    made.rejected = (BadSample("x", "bad_entry", "why", "0.json", 9),)
    return made


def test_rows_are_utterances_and_slices_are_tables(table):
    assert len(table) == 5 and table[-1] == table[4] == Utterance("/d/4éééé", 5.0, 2.0, "0.json", 5)
    assert table[2].duration is None and np.isnan(table.durations[2])
    assert [u.line for u in table[1:4:2]] == [2, 4] and isinstance(table[:0], UtteranceTable)
    with pytest.raises(IndexError):
        table[5]


def test_selected_rows_come_in_the_order_asked_for_with_all_their_columns(table):
    rows = np.array([3, 0, 3])
    assert list(table.select(rows)) == [table[3], table[0], table[3]]
    assert table.select(rows).rejected == table.rejected


def test_a_selection_of_a_selection_has_the_right_names(table):
    part = table[1:].select(np.array([3, 0, 2]))
    assert list(part) == [table[4], table[1], table[3]] and list(part[1:]) == [table[1], table[3]]
    assert list(part.with_measured(np.array([], dtype=int), np.array([]))) == list(part)
    assert list(copy.copy(part)) == list(copy.deepcopy(part)) == list(part)


def test_a_pickled_table_is_the_same_and_carries_only_the_names_it_needs(table):
    for part in (table, table[:0], table[1:3], table.select(np.array([4, 0]))):
        assert same(pickle.loads(pickle.dumps(part)), part)
    last = pickle.loads(pickle.dumps(table[4:]))
    assert last.names == "/d/4éééé".encode() and last.nbytes < table[4:].nbytes


def test_measured_durations_fill_a_copy(table):
    measured = table.with_measured(np.array([2]), np.array([7.5]))
    assert measured.durations.tolist() == [1.0, 2.0, 7.5, 4.0, 5.0] and measured[2].duration is None
    assert np.isnan(table.durations[2]) and not table.is_measured.any()


def test_a_row_takes_41_bytes_beside_its_name():
    rows = [Utterance("12345678", 1.0, 0.0)] * 1000
    assert UtteranceTable.of(rows).nbytes == 1000 * (8 + 41)


def test_no_file_is_looked_for_until_it_is_asked_for(listed, monkeypatch):
    looked_for = []
    isfile = os.path.isfile
    monkeypatch.setattr(os.path, "isfile", lambda path: looked_for.append(path) or isfile(path))
    table = listed(*["wavs/a.wav"] * 100)
    assert not any(path.endswith(".wav") for path in looked_for)
    looked_for.clear()
    assert table.open(7) == table[7].audio_filepath and len(looked_for) == 2


def test_relative_names_start_from_the_folder_of_the_manifest(listed, tmp_path):
    (tmp_path / "lists").mkdir()
    table = listed("wavs/a.wav", "../wavs/a.wav", manifest="lists/m.json")
    assert table.path(0) == str(tmp_path / "lists" / "wavs" / "a.wav")  # isn't there; that is where it should be
    assert os.path.samefile(table.path(1), tmp_path / "wavs" / "a.wav")


def test_a_file_not_beside_the_manifest_is_looked_for_where_the_run_started(listed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = listed("wavs/a.wav", manifest="lists/m.json")
    monkeypatch.chdir(tmp_path / "lists")
    assert os.path.samefile(table.path(0), tmp_path / "wavs" / "a.wav")


def test_a_manifest_named_from_the_working_directory_is_still_found_after_it_changed(listed, tmp_path, monkeypatch):
    listed("wavs/a.wav")
    monkeypatch.chdir(tmp_path)
    table = read_manifests("m.json", KEY)
    monkeypatch.chdir("/")
    assert os.path.samefile(table.path(0), tmp_path / "wavs" / "a.wav") and table[0].manifest == "m.json"


def test_backslashes_of_windows_are_understood(listed, tmp_path):
    assert os.path.samefile(listed("wavs\\a.wav").path(0), tmp_path / "wavs" / "a.wav")


@pytest.mark.parametrize("name", ["C:\\data\\a.wav", "d:/data/a.wav"])
def test_a_path_of_a_windows_drive_stays_as_it_is(listed, name):
    assert listed(name).path(0) == name


@pytest.mark.skipif(os.name == "nt", reason="a backslash in a file name")
def test_a_file_with_a_backslash_in_its_name_comes_first(listed, tmp_path):
    soundfile.write(tmp_path / "wavs\\a.wav", np.zeros(8), 16000)
    assert listed("wavs\\a.wav").path(0) == str(tmp_path / "wavs\\a.wav")


def test_a_tilde_is_the_home_folder(listed, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert os.path.samefile(listed("~/wavs/a.wav").path(0), tmp_path / "wavs" / "a.wav")


def test_half_a_surrogate_pair_in_a_name_survives_to_be_reported(listed):
    assert listed("\ud83d.wav").name(0) == "\ud83d.wav"


def test_unusual_file_names_are_found(listed, shared_data, tmp_path):
    names = json.loads((shared_data / "bad" / "unusual_names.txt").read_text(encoding="utf-8"))
    for name in names:
        shutil.copyfile(shared_data / "bad" / "audio" / "UPPER.WAV", tmp_path / "wavs" / name)
    table = listed(*(f"wavs/{name}" for name in names))
    assert len(names) > 8 and [os.path.basename(u.audio_filepath) for u in table] == names
    assert all(soundfile.info(table.open(i)).frames == 20000 for i in range(len(table)))
