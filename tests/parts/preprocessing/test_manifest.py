import json
import re

import numpy as np
import pytest
import soundfile

from parts.preprocessing.manifest import Utterance, UtteranceTable, keep_durations, read_manifests
from parts.preprocessing.manifest_paths import MAKE_DUMMY_DATA

KEY = "model.train_ds.manifest_filepath"


@pytest.fixture
def manifest(tmp_path):
    """Writes a manifest beside wavs/a.wav (0.5 s)."""
    (tmp_path / "wavs").mkdir()
    soundfile.write(tmp_path / "wavs" / "a.wav", np.zeros(8000), 16000)

    def write(content: str | bytes | list[dict], name: str = "m.json") -> str:
        if isinstance(content, list):
            content = "\n".join(json.dumps(line) for line in content)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("key", ["audio_filepath", "audio_filename"])
def test_paths_start_from_the_folder_of_the_manifest(manifest, tmp_path, key):
    path = manifest([{key: "wavs/a.wav", "duration": 0.5, "text": "x", "speaker": 3}])
    (read,) = read_manifests(path, KEY)
    assert read == Utterance(str(tmp_path / "wavs" / "a.wav"), 0.5, 0.0, path, 1)


def test_backslashes_of_windows_are_understood(manifest, tmp_path):
    (read,) = read_manifests(manifest([{"audio_filepath": "wavs\\a.wav"}]), KEY)
    assert read.audio_filepath == str(tmp_path / "wavs" / "a.wav")


def test_a_file_not_beside_the_manifest_is_looked_for_in_the_working_directory(manifest, tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    monkeypatch.chdir(tmp_path)
    (read,) = read_manifests(manifest([{"audio_filepath": "wavs/a.wav"}], "lists/m.json"), KEY)
    assert read.audio_filepath == str(tmp_path / "wavs" / "a.wav")


def test_byte_order_mark_blank_lines_and_windows_line_ends_do_not_matter(manifest):
    lines = b'\xef\xbb\xbf{"audio_filepath": "a.wav", "duration": 1}\r\n\r\n   \r\n{"audio_filepath": "b.wav"}'
    first, second = read_manifests(manifest(lines), KEY)
    assert first.duration == 1.0 and second.audio_filepath.endswith("b.wav")


def test_several_manifests_come_as_a_list_or_between_commas(manifest):
    one = manifest([{"audio_filepath": "a.wav", "offset": 0.25}], "1.json")
    two = manifest([{"audio_filepath": "b.wav", "duration": None}], "2.json")
    read = read_manifests([one, two], KEY)
    assert [u.offset for u in read] == [0.25, 0.0]
    assert list(read_manifests(f"{one}, {two}", KEY)) == list(read)


@pytest.mark.parametrize("value", [None, "", "???"])
def test_a_manifest_that_is_not_set_is_named_with_the_way_to_dummy_data(value):
    with pytest.raises(ValueError, match=f"{KEY} is not set.*{MAKE_DUMMY_DATA}"):
        read_manifests(value, KEY)


def test_a_missing_manifest_is_named_with_the_way_to_dummy_data():
    with pytest.raises(FileNotFoundError, match=f"{KEY}: there is no manifest 'no.json'.*{MAKE_DUMMY_DATA}") as caught:
        read_manifests("no.json", KEY)
    assert "\n" not in str(caught.value)


GOOD = '{"audio_filepath": "a.wav"}\n'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"audio_filepath": "a.wav", "dura', "is not a JSON object"),
        ('["a.wav"]', "is not a JSON object"),
        ("[" * 100_000, "is not a JSON object"),
        ('{"duration": 3}', "audio_filepath=None"),
        ('{"audio_filepath": ["a.wav", "b.wav"]}', r"audio_filepath=\['a.wav'"),
        ('{"audio_filepath": "a.wav", "duration": "abc"}', "duration='abc'"),
        ('{"audio_filepath": "a.wav", "duration": -1}', "duration=-1"),
        ('{"audio_filepath": "a.wav", "duration": NaN}', "duration=nan"),
        ('{"audio_filepath": "a.wav", "duration": true}', "duration=True"),
        ('{"audio_filepath": "a.wav", "offset": -0.5}', "offset=-0.5"),
        (b"\xff\xfe{\x00", "not UTF-8"),
    ],
)
def test_a_broken_line_is_rejected_with_file_and_line(manifest, line, said):
    path = manifest(GOOD.encode() + (line if isinstance(line, bytes) else line.encode()))
    table = read_manifests(path, KEY)
    (bad,) = table.rejected
    assert len(table) == 1 and (bad.reason, bad.manifest, bad.line) == ("bad_entry", path, 2)
    assert re.search(said, bad.detail) and "\n" not in bad.detail and len(bad.detail) < 300


def utterances(*durations):
    return UtteranceTable.of(Utterance(f"{i}.wav", duration, 0.0) for i, duration in enumerate(durations))


def test_bounds_include_their_ends_and_the_log_says_what_was_dropped(log):
    kept = keep_durations(utterances(0.9, 1.0, 5.0, 16.7, 17.0, 3600.0), 1.0, 16.7, "model.train_ds")
    assert [u.duration for u in kept] == [1.0, 5.0, 16.7]
    assert "model.train_ds: kept 3 utterances (0.01 h)" in log.text
    assert "1 shorter than min_duration=1.0 (0.00 h), 2 longer than max_duration=16.7 (1.00 h)" in log.text


def test_without_bounds_everything_stays():
    assert len(keep_durations(utterances(0.0, 1e6), None, None, "s")) == 2


def test_a_missing_duration_is_read_from_the_header(manifest):
    listed = read_manifests(manifest([{"audio_filepath": "wavs/a.wav", "offset": o} for o in (0.0, 0.2)]), KEY)
    assert list(keep_durations(listed, 0.4, None, "s")) == list(listed[:1])  # 0.5 s and 0.3 s are left of the file


def test_a_file_of_unknown_length_stays_for_the_decoder_to_report(log):
    assert len(keep_durations(utterances(None), 1.0, None, "s")) == 1
    assert "1 of them have neither a duration nor a readable header" in log.text


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ((10.0, None), "2 shorter than min_duration=10.0.*set min_duration to at most 4$"),
        ((None, 1.0), "2 longer than max_duration=1.0.*set max_duration to at least 3$"),
        ((3.5, 3.9), "set min_duration to at most 3 or set max_duration to at least 4$"),
    ],
)
def test_when_nothing_is_left_the_error_says_which_bound_to_move(bounds, said):
    with pytest.raises(ValueError, match=f"^model.train_ds: no utterance is left: .*{said}"):
        keep_durations(utterances(3.0, 4.0), *bounds, "model.train_ds")


def test_an_empty_manifest_is_an_error(manifest):
    with pytest.raises(ValueError, match=rf"{KEY}: '.*m\.json' has no lines"):
        read_manifests(manifest("\n \n"), KEY)


@pytest.mark.parametrize("name", ["speech_train", "speech_val", "noise_train", "noise_val"])
def test_the_shared_manifests_load_and_their_files_are_there(shared_data, name):
    path = shared_data / "manifests" / f"{name}.json"
    read = read_manifests(str(path), KEY)
    assert len(read) == len(path.read_text(encoding="utf-8").split("\n")) - 1
    assert all(soundfile.info(u.audio_filepath).frames > 0 for u in read[::25])
